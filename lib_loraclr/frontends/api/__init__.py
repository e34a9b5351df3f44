"""The HTTP API under `/loraclr/v1`: a thin face over `jobs`, for any `Application`; names, never paths."""
