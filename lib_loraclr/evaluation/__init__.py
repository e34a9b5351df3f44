"""Measuring what LoRAs and merges keep, in pictures: metrics, scores, their folder and its page."""
