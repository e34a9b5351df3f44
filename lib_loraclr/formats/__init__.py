"""LoRA files to core types and back: one reader per family, key names, the writer, metadata, sidecar."""
