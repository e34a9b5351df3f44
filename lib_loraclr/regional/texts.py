"""What to encode for every region: its prompt and negative, with the picture's own where the spec says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lib_loraclr.regional.spec import Region, RegionalSpec


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
    return _joined(own, spec.hires.suffix) if hires else own


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
