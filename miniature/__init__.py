"""The miniature: a complete, tiny Stable Diffusion 1 checkpoint, the world it was trained on, and how to measure it."""
