"""Measuring what LoRAs and merges keep, in pictures: meters, painting, scores, their folder and its page."""
