"""Pure tensor mathematics of a merge: torch and the standard library only, no files, no hosts, no printing."""
