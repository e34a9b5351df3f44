"""Settings of a distillation."""

from __future__ import annotations

from dataclasses import dataclass

from lib_loraclr.options import check, option

DISTILLATION = "How the merge learns"  # title of the group


@dataclass(frozen=True)
class DistillSettings:
    """How long and on what the merged LoRA learns.

    The text encoder goes slower in a long run because everybody's prompts go through it. `rate` falls to 0 in a
    straight line. Pictures are drawn with `cfg_scale`: what users see, not what the conditional branch alone draws.
    Raises InputError "bad-option" with the attribute's name as key.
    """

    total_steps: int = option(
        0, "Steps of descent for all LoRAs together; 0 is no distillation.", 0, aliases=("steps",)
    )
    text_encoder_slowdown_after: int = option(
        400, "Preset distilled: in more steps than these, of all LoRAs together, the text encoder learns slower.",
        0, 100000, group=DISTILLATION, aliases=("text_steps",),
    )  # fmt: skip
    rate: float = option(0.03, "First step of every factor, as a share of its root mean square.", 0.0)
    batch_size: int = option(12, "Predictions compared in a step.", 1, aliases=("rows",))
    neutral_every: int = option(4, "Every so many predictions one is of the model without a LoRA.", 1)
    pictures: int = option(16, "Pictures drawn by each single LoRA.", 0)
    neutral: int = option(32, "Pictures drawn by the model alone.", 0)
    levels: int = option(16, "How often each picture is noised.", 1)
    cfg_scale: float = option(4.0, "Of the pictures.", 1.0, 30.0)
    exam: int = option(2, "Pictures a concept that tell afterwards how much was kept.", 0)
    exam_levels: int = option(8, "How often each of those is noised.", 1)

    def __post_init__(self) -> None:
        """Checks every attribute."""
        check(self)
