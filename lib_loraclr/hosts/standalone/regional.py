"""Regions in the standalone host: one `sample` call with its texts encoded and its UNet hooked."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor

from lib_loraclr.capture.hooks import inject
from lib_loraclr.model import SampleRequest
from lib_loraclr.regional.conditions import BatchRow, Encoded, RegionText
from lib_loraclr.regional.lora import RegionalRequest, RegionDeltas, component
from lib_loraclr.regional.runtime import RegionalRuntime
from lib_loraclr.regional.sites import find_sites
from lib_loraclr.regional.texts import RegionPrompt, region_prompts
from lib_loraclr.regional.weights import RegionWeights

if TYPE_CHECKING:
    from .host import StandaloneHost


class RegionalSampling:
    """The regions of one request; `guided` says whether the unconditional branch is needed at all."""

    def __init__(self, host: StandaloneHost, request: SampleRequest, regions: RegionalRequest, size: tuple[int, int]):
        self.host, self.request, self.regions = host, request, regions
        self.region_weights = RegionWeights(regions.spec, *size)
        self.runtime = RegionalRuntime(self.region_weights, find_sites(host.unet))
        self.guided = request.cfg_scale != 1.0 or self.region_weights.guides
        self._texts: list[list[RegionText]] = []
        self._progress = 0.0

    @contextmanager
    def running(self) -> Generator[RegionalSampling]:
        """Scope of the sampler: texts are encoded and hooks are in place; none is left after it."""
        self._texts = self._encode()
        loras = None
        unet = [component(deltas, text=False) for deltas in self.regions.deltas]
        if any(unet):
            loras = RegionDeltas(unet, self.host.layers())
        with self.runtime.installed(loras):
            yield self

    @contextmanager
    def step(self, number: int) -> Generator[None]:
        """Scope of the UNet call of sampling step `number`: unconditional rows first, as the host runs them."""
        self._progress = number / self.request.steps
        self.runtime.begin_step(self._progress, self._texts)
        pictures = range(len(self.request.prompts))
        branches = (False, True) if self.guided else (True,)
        with self.runtime.calling([BatchRow(picture, branch) for branch in branches for picture in pictures]):
            yield

    def scale(self, like: Tensor) -> Tensor | float:
        """The guidance scale of this step, a map (1, 1, h, w) where a region has its own."""
        height, width = like.shape[-2:]
        found = self.region_weights.guidance(height, width, self._progress, self.request.cfg_scale)
        return self.request.cfg_scale if found is None else found.to(like)

    def _encode(self) -> list[list[RegionText]]:
        """Texts of every picture and region; equal texts with equal LoRAs are encoded once."""
        known: dict[tuple[str, bool, int], Encoded] = {}
        spec, request = self.regions.spec, self.request

        def encoded(text: str, conditional: bool, region: int) -> Encoded:
            changes = component(self.regions.deltas[region], text=True) if self.regions.deltas else {}
            key = text, conditional, region if changes else -1
            if key not in known:
                with inject(self.host.layers(), changes):
                    known[key] = self._encoded(text, conditional)
            return known[key]

        def one(region: int, texts: RegionPrompt) -> RegionText:
            negative = None if texts.negative is None else encoded(texts.negative, False, region)
            return RegionText(encoded(texts.positive, True, region), negative)

        return [
            [
                one(region, texts)
                for region, texts in enumerate(
                    region_prompts(spec, prompt, request.negative_prompt, triggers=self.regions.triggers)
                )
            ]
            for prompt in request.prompts
        ]

    def _encoded(self, text: str, conditional: bool) -> Encoded:
        condition = self.host.encode([text])
        if not conditional and not text and self.host.info.family == "sdxl":
            condition = condition.zeros()
        return Encoded(condition.context[0], None if condition.vector is None else condition.vector[0])


def regional_sampling(host: StandaloneHost, request: SampleRequest, size: Sequence[int]) -> RegionalSampling | None:
    """The regions of a request for latents of `size` (height, width); None where no region is on."""
    regions = request.regions
    if regions is None or not regions.spec.active():
        return None
    return RegionalSampling(host, request, regions, (size[0], size[1]))
