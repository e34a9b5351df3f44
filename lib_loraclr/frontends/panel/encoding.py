"""What single regions bring to a generation in a WebUI: LoRAs of their own, and their texts encoded with them.

The WebUI itself never learns of a region's LoRAs: its own are in the weights, these are added by hooks with each
region's weight (UNet), and while that region's text is encoded (text encoder).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from lib_loraclr.capture import inject
from lib_loraclr.core.deltas import Delta, LayerShape, stack
from lib_loraclr.core.errors import InputError
from lib_loraclr.formats import read_lora
from lib_loraclr.formats.weighted import check_families, host_shapes, weighted_deltas
from lib_loraclr.regional import RegionalSpec, RegionLora
from lib_loraclr.regional.lora import RegionDeltas, component
from lib_loraclr.regional.port import Note, RegionalHost
from lib_loraclr.regional.texts import TextSchedule, TextSchedules, region_prompts

Deltas = Mapping[str, Delta]


class RegionLoras:
    """The `loras` of a spec's active regions on one loaded model.

    A LoRA that is missing or does not fit is left out, and `note` gets a sentence about it.
    """

    def __init__(self, spec: RegionalSpec, host: RegionalHost, note: Note) -> None:
        self._host, self._model, self._note = host, host.loaded_host(), note
        shapes = host_shapes(self._model)
        self._deltas = [stack([self._read(lora, shapes) for lora in region.loras]) for region in spec.active()]

    def unet(self) -> RegionDeltas | None:
        """What the runtime hooks; None where no region has a LoRA for the UNet."""
        parts = [component(deltas, text=False) for deltas in self._deltas]
        return RegionDeltas(parts, self._model.layers()) if any(parts) else None

    def acts(self, region: int) -> bool:
        """Whether any LoRA of a region could be used."""
        return bool(self._deltas[region])

    def changes_text(self, region: int) -> bool:
        """Whether a region's text is encoded with LoRAs of its own."""
        return any(name.startswith("text_encoder") for name in self._deltas[region])

    @contextmanager
    def encoding(self, region: int) -> Generator[None]:
        """Scope in which the text encoder has the LoRAs of one region."""
        deltas = component(self._deltas[region], text=True)
        with self._host.text_scope(self._model), inject(self._model.layers(), deltas):
            yield

    def _read(self, lora: RegionLora, shapes: Mapping[str, LayerShape]) -> Deltas:
        """Names only, never paths: a layout may come from a picture or over the network."""
        try:
            file = read_lora(self._host.lora_file(lora.name))
            check_families([file], self._model.info.family)
            return weighted_deltas(file, lora.unet, lora.te, self._model.base_weight, shapes)[0]
        except InputError as error:
            self._note(f"A region's LoRA is left out: {error.message}")
            return {}


class TextEncoder:
    """Encodes the region texts of a run; equal texts are encoded once, also from batch to batch."""

    def __init__(
        self, host: RegionalHost, specs: Callable[[int, bool], RegionalSpec], triggers: Mapping[str, str]
    ) -> None:
        """`specs(picture, hires)` is the spec with the region prompts of one picture of the batch."""
        self._host, self._specs, self._triggers = host, specs, triggers
        self._known: dict[tuple[Hashable, ...], TextSchedule] = {}

    def schedules(self, p: Any, *, hires: bool, loras: RegionLoras | None = None) -> TextSchedules:
        """Texts of the present batch, for the first pass or the high-resolution pass."""
        prompts, negatives = (p.hr_prompts, p.hr_negative_prompts) if hires else (p.prompts, p.negative_prompts)
        wanted = [
            region_prompts(self._specs(picture, hires), prompt, negative, hires=hires, triggers=self._triggers)
            for picture, (prompt, negative) in enumerate(zip(prompts, negatives, strict=True))
        ]
        schedules: list[list[tuple[TextSchedule, TextSchedule | None]]] = [[] for _ in wanted]
        for region in range(len(wanted[0]) if wanted else 0):
            texts = [picture[region] for picture in wanted]
            if loras is None or not loras.acts(region):  # LoRAs that were left out ask for nothing again
                pairs = zip(texts, negatives, strict=True)
                texts = [replace(text, negative=None) if text.negative == main else text for text, main in pairs]
            altered = region if loras is not None and loras.changes_text(region) else None
            with nullcontext() if altered is None or loras is None else loras.encoding(region):
                positive = self._encode(p, [text.positive for text in texts], False, hires, altered)
                negative = self._encode(
                    p, [text.negative for text in texts if text.negative is not None], True, hires, altered
                )
            for picture, text in zip(schedules, texts, strict=True):
                picture.append((positive[text.positive], None if text.negative is None else negative[text.negative]))
        return TextSchedules(schedules)

    def forget(self) -> None:
        """The model has changed."""
        self._known.clear()

    def _encode(
        self, p: Any, texts: Sequence[str], negative: bool, hires: bool, region: int | None
    ) -> dict[str, TextSchedule]:
        """`region` is the one whose own LoRAs are in the text encoder now."""
        state = (negative, region, self._host.text_state(p, hires=hires))
        missing = [text for text in dict.fromkeys(texts) if (text, *state) not in self._known]
        if missing:
            encoded = self._host.encode(p, missing, negative=negative, hires=hires)
            for text, schedule in zip(missing, encoded, strict=True):
                self._known[(text, *state)] = schedule
        return {text: self._known[(text, *state)] for text in texts}
