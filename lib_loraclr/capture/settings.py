"""Settings of a capture, checked once; those with a group are options of a merge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lib_loraclr.capture.prompts import (
    HELD_OUT_TEMPLATES,
    SAMPLE_TEMPLATES,
    SCENES,
    TEXT_TEMPLATES,
    Templates,
    check_templates,
)
from lib_loraclr.core.errors import InputError
from lib_loraclr.options import check, option

PRESETS = ("text", "full")
CAPTURE = "How the model is watched"  # title of the group


def _templates(prompts: tuple[str, ...]) -> tuple[str, ...]:
    """At least one, and each holds {c}."""
    if not prompts or any("{c}" not in prompt for prompt in check_templates(prompts)):
        raise ValueError("a list of prompts that contain {c}")
    return prompts


def _prompts(default: tuple[str, ...], help: str, check: Any = None) -> Any:  # noqa: A002
    return option(default, help, kind="list", check=check)


@dataclass(frozen=True)
class CaptureSettings:
    """How much of the model's behaviour is watched.

    Above `cfg_scale` 1 both branches run, and only the conditional rows are counted. A padding token's row must not be
    dropped, since the model attends to padding, but the 60-odd nearly equal rows must not outvote the dozen words of a
    prompt either: `padding_weight`. Over the memory budget (MiB) layers are captured in groups, one sampling run a
    group. Raises InputError "bad-option" with the attribute's name as key.
    """

    preset: str = option("full", "text: text encoder and cross-attention K/V, from text alone; full: every layer, by "
                         "sampling.", choices=PRESETS)  # fmt: skip
    steps: int = option(20, "Denoising steps per captured picture; fewer is faster.", 1, 1000, name="sampling_steps",
                        group=CAPTURE)  # fmt: skip
    size: tuple[int, int] | None = option(
        None,
        "Captured pictures in pixels, WIDTHxHEIGHT; smaller is faster, far from native is wrong.",
        kind="size",
        group=CAPTURE,
    )
    seed: int = option(0, "Of the first picture.")
    prompts: int = option(4, "Pictures per concept and round; more is slower and more general.", 1, 1000, group=CAPTURE)
    batch: int = option(4, "Pictures that are sampled side by side.", 1, 1000)
    neutral_prompts: int = option(8, "Pictures that the merge must leave as they are.", 0, 1000, group=CAPTURE)
    held_out_prompts: int = option(1, "Pictures per concept for the fidelity report.", 0, 1000, group=CAPTURE)
    sampler: str = option("ddim", "Of the host.")
    cfg_scale: float = option(1.0, "1 runs the conditional branch only.", 1.0, 30.0)
    padding_weight: float = option(0.2, "Weight of a padding token beside a word's.", 0.0, 1.0, group=CAPTURE)
    max_features: int = option(6144, "Layers with more inputs are left out and reported.", 1, 65536)
    memory_budget_mib: int = option(
        4096,
        "MiB of statistics held at a time; less samples more often.",
        1,
        2**20,
        name="memory_budget",
        group=CAPTURE,
    )
    text_templates: tuple[str, ...] = _prompts(TEXT_TEMPLATES, "Prompts of the text encoder.", _templates)
    sample_templates: tuple[str, ...] = _prompts(SAMPLE_TEMPLATES, "Prompts of the pictures.", _templates)
    held_out_templates: tuple[str, ...] = _prompts(HELD_OUT_TEMPLATES, "Prompts of the report alone.", _templates)
    scenes: tuple[str, ...] = _prompts(SCENES, "Prompts without a concept.")

    @property
    def templates(self) -> Templates:
        """The templates of a character; other kinds have their own (`prompts.templates_for`)."""
        return Templates(self.text_templates, self.sample_templates, self.held_out_templates)

    def __post_init__(self) -> None:
        """Checks every attribute, and what two of them cannot be together."""
        check(self)
        shared = set(self.held_out_templates) & {*self.text_templates, *self.sample_templates}
        if shared:
            raise _bad("held_out_templates", f'shares "{min(shared)}" with the captured templates')


def _bad(name: str, problem: str) -> InputError:
    return InputError("bad-option", f"The option {name} {problem}.", key=name)
