"""Settings of a distillation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DistillSettings:
    """How long and on what the merged LoRA learns.

    steps      of descent; 0 is no distillation
    text_steps in more steps than these the text encoder, which everybody's prompts go through, learns slower
    rate       first step of every factor, as a share of its root mean square; falls to 0 in a straight line
    rows       predictions compared in a step; every `neutral_every`-th is of the model without a LoRA
    pictures   drawn by each single LoRA, and `neutral` by the model alone; each is noised `levels` times
    cfg_scale  of these pictures: what users see, not what the conditional branch alone draws
    exam       pictures a concept, noised `exam_levels` times, that tell afterwards how much was kept
    """

    steps: int = 0
    text_steps: int = 400
    rate: float = 0.03
    rows: int = 12
    neutral_every: int = 4
    pictures: int = 16
    neutral: int = 32
    levels: int = 16
    cfg_scale: float = 4.0
    exam: int = 2
    exam_levels: int = 8
