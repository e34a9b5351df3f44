"""Settings of a capture, validated once."""

from __future__ import annotations

from dataclasses import dataclass

from lib_loraclr.capture.prompts import HELD_OUT_TEMPLATES, SAMPLE_TEMPLATES, SCENES, TEXT_TEMPLATES, Templates
from lib_loraclr.core.errors import InputError

PRESETS = ("text", "full")
RANGES = (
    ("steps", 1, 1000), ("prompts", 1, 1000), ("batch", 1, 1000), ("neutral_prompts", 0, 1000),
    ("held_out_prompts", 0, 1000),
    ("cfg_scale", 1.0, 30.0), ("padding_weight", 0.0, 1.0), ("max_features", 1, 65536), ("memory_budget_mib", 1, 2**20),
)  # fmt: skip


@dataclass(frozen=True)
class CaptureSettings:
    """How much of the model's behaviour is watched.

    preset            "text": text encoder and cross-attention K/V, from text alone; "full": every layer, by sampling
    steps, sampler    of the host's own sampler; `size` (width, height) in pixels, None: the checkpoint's native size
    cfg_scale         1 runs the conditional branch only; above 1 both run, and only the conditional rows are counted
    prompts           pictures per concept and round; `batch` of them run side by side
    neutral_prompts   pictures of the base model alone, which the merge must not change
    held_out_prompts  pictures per concept that only the fidelity report sees (none while a merged student runs)
    padding_weight    weight of a padding token's row beside a word's. The model attends to padding, so it must not be
                      dropped, but the 60-odd nearly equal rows must not outvote the dozen words of a prompt either
    max_features      layers with more inputs are left out and reported
    memory_budget_mib moments held at a time; over it the layers are captured in groups, one sampling run a group
    """

    preset: str = "full"
    steps: int = 20
    size: tuple[int, int] | None = None
    seed: int = 0
    prompts: int = 4
    batch: int = 4
    neutral_prompts: int = 8
    held_out_prompts: int = 1
    sampler: str = "ddim"
    cfg_scale: float = 1.0
    padding_weight: float = 0.2
    max_features: int = 6144
    memory_budget_mib: int = 4096
    text_templates: tuple[str, ...] = TEXT_TEMPLATES
    sample_templates: tuple[str, ...] = SAMPLE_TEMPLATES
    held_out_templates: tuple[str, ...] = HELD_OUT_TEMPLATES
    scenes: tuple[str, ...] = SCENES

    @property
    def templates(self) -> Templates:
        """The templates of a concept that is a thing; styles have their own (`prompts.templates_for`)."""
        return Templates(self.text_templates, self.sample_templates, self.held_out_templates)

    def __post_init__(self) -> None:
        """Raises InputError "bad-option" with the option's name as key."""
        if self.preset not in PRESETS:
            raise _bad("preset", f"must be one of {', '.join(PRESETS)}, not {self.preset}")
        for name, low, high in RANGES:
            if not low <= getattr(self, name) <= high:
                raise _bad(name, f"must be between {low} and {high}, not {getattr(self, name)}")
        if self.size is not None and min(self.size) < 8:
            raise _bad("size", f"must be two numbers of pixels, not {self.size}")
        for name in ("text_templates", "sample_templates", "held_out_templates"):
            _check_templates(name, getattr(self, name))
        shared = set(self.held_out_templates) & {*self.text_templates, *self.sample_templates}
        if shared:
            raise _bad("held_out_templates", f'shares "{min(shared)}" with the captured templates')


def _check_templates(name: str, templates: tuple[str, ...]) -> None:
    if not templates:
        raise _bad(name, "must not be empty")
    for template in templates:
        try:
            filled = template.format(c="\0", other="")
        except (KeyError, IndexError, ValueError):
            filled = ""
        if "\0" not in filled:
            raise _bad(name, f'must contain {{c}} and no field but {{c}} and {{other}}, not "{template}"')


def _bad(name: str, problem: str) -> InputError:
    return InputError("bad-option", f"The capture option {name} {problem}.", key=name)
