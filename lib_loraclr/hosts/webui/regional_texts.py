"""What the regions of every picture say at every step, encoded by the WebUI's own prompt parser.

So prompt editing, emphasis, textual inversion and long prompts work in a region as they do in the main prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from modules import devices, prompt_parser, sd_samplers, shared
from torch import Tensor

from lib_loraclr.hosts.webui.regional_loras import RegionLoras
from lib_loraclr.regional.conditions import Encoded, RegionText
from lib_loraclr.regional.spec import RegionalSpec
from lib_loraclr.regional.texts import region_prompts

Conditions = Sequence[Sequence[RegionText]]


@dataclass(frozen=True, eq=False)
class Schedule:
    """One encoded prompt: (last step, text) in order, as prompt editing divides it."""

    entries: tuple[tuple[int, Encoded], ...]

    def index(self, step: int) -> int:
        """Which entry holds at a step, by the hosts' own rule (the first one where none is left)."""
        return next((k for k, (last, _) in enumerate(self.entries) if step <= last), 0)


class TextSchedules:
    """`schedules[picture][region]` are (positive, negative or None); `at(step)` are the runtime's conditions."""

    def __init__(self, schedules: Sequence[Sequence[tuple[Schedule, Schedule | None]]]) -> None:
        self._schedules = schedules
        self._known: dict[tuple[int, ...], Conditions] = {}

    def at(self, step: int) -> Conditions:
        """The texts of a step; the very same object while nothing switches."""
        flat = [one for picture in self._schedules for pair in picture for one in pair if one is not None]
        key = tuple(schedule.index(step) for schedule in flat)
        if key not in self._known:
            self._known[key] = [
                [RegionText(_text(positive, step), _text(negative, step)) for positive, negative in picture]
                for picture in self._schedules
            ]
        return self._known[key]


class TextEncoder:
    """Encodes the region texts of a run; equal texts are encoded once, also from batch to batch."""

    def __init__(self, specs: Callable[[int, bool], RegionalSpec], triggers: Mapping[str, str]) -> None:
        """`specs(picture, hires)` is the spec with the region prompts of one picture of the batch."""
        self._specs, self._triggers = specs, triggers
        self._known: dict[tuple[Any, ...], Schedule] = {}

    def schedules(self, p: Any, *, hires: bool, loras: RegionLoras | None = None) -> TextSchedules:
        """Texts of the present batch, for the first pass or the high-resolution pass."""
        prompts, negatives = (p.hr_prompts, p.hr_negative_prompts) if hires else (p.prompts, p.negative_prompts)
        wanted = [
            region_prompts(self._specs(picture, hires), prompt, negative, hires=hires, triggers=self._triggers)
            for picture, (prompt, negative) in enumerate(zip(prompts, negatives, strict=True))
        ]
        found: list[list[tuple[Schedule, Schedule | None]]] = [[] for _ in wanted]
        for region in range(len(wanted[0]) if wanted else 0):
            texts = [picture[region] for picture in wanted]
            if loras is None or not loras.acts(region):  # LoRAs that were left out ask for nothing again
                pairs = zip(texts, negatives, strict=True)
                texts = [replace(text, negative=None) if text.negative == own else text for text, own in pairs]
            own = region if loras is not None and loras.changes_text(region) else None
            with nullcontext() if own is None or loras is None else loras.encoding(region):
                positive = self._encode(p, [text.positive for text in texts], False, hires, own)
                negative = self._encode(
                    p, [text.negative for text in texts if text.negative is not None], True, hires, own
                )
            for picture, text in zip(found, texts, strict=True):
                picture.append((positive[text.positive], None if text.negative is None else negative[text.negative]))
        return TextSchedules(found)

    def forget(self) -> None:
        """The model has changed."""
        self._known.clear()

    def _encode(
        self, p: Any, texts: Sequence[str], negative: bool, hires: bool, region: int | None
    ) -> dict[str, Schedule]:
        """`region` is the one whose own LoRAs are in the text encoder now."""
        place = (negative, pass_size(p, hires), pass_steps(p, hires), _networks(p, hires), _model_key(), region)
        missing = [text for text in dict.fromkeys(texts) if (text, *place) not in self._known]
        if missing:
            for text, schedule in zip(missing, encode(p, missing, negative, hires), strict=True):
                self._known[(text, *place)] = schedule
        return {text: self._known[(text, *place)] for text in texts}


def encode(p: Any, texts: Sequence[str], negative: bool, hires: bool) -> list[Schedule]:
    """One schedule per text, from the loaded text encoder with the LoRAs that are active now."""
    width, height = pass_size(p, hires)
    wanted = prompt_parser.SdConditioning(list(texts), is_negative_prompt=negative, width=width, height=height)
    model: Any = shared.sd_model
    steps, hires_steps = pass_steps(p, hires)
    with torch.no_grad(), devices.autocast():
        if hasattr(model, "set_clip_skip"):
            model.set_clip_skip(int(shared.opts.CLIP_stop_at_last_layers))
        found = prompt_parser.get_learned_conditioning(
            model, wanted, steps, hires_steps, getattr(shared.opts, "use_old_scheduling", False)
        )
    return [Schedule(tuple((int(entry.end_at_step), _encoded(entry.cond)) for entry in one)) for one in found]


def pass_size(p: Any, hires: bool) -> tuple[int, int]:
    """(width, height) in pixels of a pass."""
    return (p.hr_upscale_to_x, p.hr_upscale_to_y) if hires else (p.width, p.height)


def pass_steps(p: Any, hires: bool) -> tuple[int, int | None]:
    """(steps, hires steps) as the hosts give them to the prompt parser: times two for second-order samplers."""
    first = getattr(p, "firstpass_steps", None) or _total_steps(p.sampler_name, p.steps)
    if not hires:
        return first, None
    return first, _total_steps(p.hr_sampler_name or p.sampler_name, p.hr_second_pass_steps or p.steps)


def _total_steps(sampler: str, steps: int) -> int:
    config = sd_samplers.find_sampler_config(sampler)
    return int(config.total_steps(steps)) if config else steps


def _networks(p: Any, hires: bool) -> str:
    """LoRAs change the text encoder, so they are part of what a text's encoding depends on."""
    data: Any = getattr(p, "hr_extra_network_data" if hires else "extra_network_data", None) or {}
    return repr({kind: [getattr(one, "items", None) for one in used] for kind, used in data.items()})


def _model_key() -> tuple[int, int]:
    return id(shared.sd_model), int(shared.opts.CLIP_stop_at_last_layers)


def _encoded(cond: Any) -> Encoded:
    if isinstance(cond, Tensor):
        return Encoded(cond)
    return Encoded(cond["crossattn"], cond.get("vector"))


def _text(schedule: Schedule | None, step: int) -> Any:
    return None if schedule is None else schedule.entries[schedule.index(step)][1]
