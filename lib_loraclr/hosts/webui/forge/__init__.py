"""Forge: the loaded engine's patchers around models that its memory manager moves."""
