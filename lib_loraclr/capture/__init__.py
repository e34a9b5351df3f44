"""Capture: what the layers of a running model are given, as second moments per concept."""
