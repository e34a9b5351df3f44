"""What to encode for every region, and what is encoded of it at every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lib_loraclr.regional.conditions import Encoded, RegionText
from lib_loraclr.regional.spec import Region, RegionalSpec

Conditions = Sequence[Sequence[RegionText]]
"""`conditions[picture][region]`, what `RegionalRuntime.begin_step` takes."""


@dataclass(frozen=True)
class RegionPrompt:
    """Texts of one region; `negative` None means: the picture's own, nothing to encode."""

    positive: str
    negative: str | None


def region_prompts(
    spec: RegionalSpec, prompt: str, negative: str, *, hires: bool = False, triggers: Mapping[str, str] | None = None
) -> tuple[RegionPrompt, ...]:
    """Texts of every active region, in the order of `spec.active()`.

    `triggers` maps the concepts of a merged file to their trigger words; a region of a concept whose prompt does not
    have the words gets them in front.
    """
    known = triggers or {}
    return tuple(
        RegionPrompt(_positive(spec, region, prompt, hires, known), _negative(spec, region, negative))
        for region in spec.active()
    )


def _positive(spec: RegionalSpec, region: Region, prompt: str, hires: bool, triggers: Mapping[str, str]) -> str:
    own = region.prompt.strip()
    trigger = triggers.get(region.concept, "")
    if trigger and trigger not in own:
        own = _joined(trigger, own)
    if spec.base.prepend:
        own = _joined(prompt, own)
    return _joined(own, spec.hires.prompt_suffix) if hires else own


def _negative(spec: RegionalSpec, region: Region, negative: str) -> str | None:
    """None where the picture's own serves; a region's LoRAs change even an equal text, so they ask for it again."""
    own = region.negative.strip()
    if region.negative_mode == "inherit":
        found = negative
    elif region.negative_mode == "append" and not own:
        found = "" if spec.base.negative == "empty" else negative
    else:
        found = own if region.negative_mode == "replace" else _joined(negative, own)
    return None if found == negative and not region.loras else found


def _joined(*parts: str) -> str:
    return ", ".join(part.strip().rstrip(",") for part in parts if part.strip())


@dataclass(frozen=True, eq=False)
class TextSchedule:
    """One encoded prompt: (last step, text) in order, as prompt editing divides it."""

    entries: tuple[tuple[int, Encoded], ...]

    def index(self, step: int) -> int:
        """Which entry holds at a step, by the hosts' own rule (the first one where none is left)."""
        return next((k for k, (last, _) in enumerate(self.entries) if step <= last), 0)

    def at(self, step: int) -> Encoded:
        """The text that holds at a step."""
        return self.entries[self.index(step)][1]


class TextSchedules:
    """`schedules[picture][region]` are (positive, negative or None); `at(step)` are the runtime's conditions."""

    def __init__(self, schedules: Sequence[Sequence[tuple[TextSchedule, TextSchedule | None]]]) -> None:
        self._schedules = schedules
        self._known: dict[tuple[int, ...], Conditions] = {}

    def at(self, step: int) -> Conditions:
        """The texts of a step; the very same object while nothing switches."""
        flat = [one for picture in self._schedules for pair in picture for one in pair if one is not None]
        key = tuple(schedule.index(step) for schedule in flat)
        if key not in self._known:
            self._known[key] = [
                [
                    RegionText(positive.at(step), None if negative is None else negative.at(step))
                    for positive, negative in picture
                ]
                for picture in self._schedules
            ]
        return self._known[key]
