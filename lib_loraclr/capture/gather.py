"""One run of the model under watch: prompts in, second moments of the chosen layers out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lib_loraclr.capture.hooks import SharedInputs, collect, inject, input_features, input_rows
from lib_loraclr.capture.settings import CaptureSettings
from lib_loraclr.core.deltas import Delta
from lib_loraclr.core.linalg import exact_float32
from lib_loraclr.core.moments import SecondMoment
from lib_loraclr.model import DiffusionHost, Progress, SampleRequest

TEXT_BATCH = 16
KEYS_AND_VALUES = (".attn2.to_k", ".attn2.to_v")


@dataclass(frozen=True)
class Run:
    """Prompts with what is injected while they run. Without seeds: text encoder and K/V only; with: the sampler."""

    prompts: tuple[str, ...]
    seeds: tuple[int, ...] = ()
    deltas: Mapping[str, Delta] = field(default_factory=dict[str, Delta])

    @property
    def sampled(self) -> bool:
        """Whether the run watches the sampler."""
        return bool(self.seeds)


def needs_only_text(layer: str) -> bool:
    """Whether the inputs of a layer follow from the prompt alone."""
    return layer.startswith("text_encoder") or layer.endswith(KEYS_AND_VALUES)


def shared_inputs(host: DiffusionHost, settings: CaptureSettings) -> dict[str, str]:
    """Layer -> the layer whose inputs it shares, for every layer that runs (one prompt, one small sampling step)."""
    modules, watch = host.layers(), SharedInputs()
    with collect(modules, [name for name in modules if needs_only_text(name)], watch):
        conditioning = host.encode(["a photo"])
        host.run_cross_attention_kv(conditioning)
    leaders = watch.leaders()
    if settings.preset == "full":
        watch, side = SharedInputs(), min(128, *picture_size(host, settings))
        with collect(modules, [name for name in modules if not needs_only_text(name)], watch):
            host.sample(
                SampleRequest(["a photo"], [0], 1, (side, side), sampler=settings.sampler), conditioning=conditioning
            )
        leaders |= watch.leaders()
    return leaders


def picture_size(host: DiffusionHost, settings: CaptureSettings) -> tuple[int, int]:
    """(width, height) in pixels."""
    return settings.size or (host.info.native_size, host.info.native_size)


def gather(
    host: DiffusionHost, run: Run, layers: Sequence[str], settings: CaptureSettings, progress: Progress | None = None
) -> dict[str, SecondMoment]:
    """Moments of `layers` (on the model's device), one progress step per sampling step, or one for a text run.

    Hooks and injected LoRAs are gone afterwards, also after an error or `Cancelled`.
    """
    modules = host.layers()
    totals = Totals(host.conditional_slice if run.sampled else None, host, settings.padding_weight)
    with inject(modules, run.deltas):
        if not run.sampled:
            with collect(modules, layers, totals):
                for first in range(0, len(run.prompts), TEXT_BATCH):
                    host.run_cross_attention_kv(host.encode(run.prompts[first : first + TEXT_BATCH]))
            if progress is not None:
                progress.step()
            return totals.moments
        for first in range(0, len(run.prompts), settings.batch):
            part = slice(first, first + settings.batch)
            request = SampleRequest(
                run.prompts[part], run.seeds[part], settings.steps, picture_size(host, settings), settings.cfg_scale,
                sampler=settings.sampler,
            )  # fmt: skip
            conditioning = host.encode(request.prompts)
            with collect(modules, layers, totals):
                host.sample(request, progress, conditioning=conditioning)
    return totals.moments


class Totals:
    """A receiver that adds every row it is given to the layer's moment."""

    def __init__(
        self, conditional: Callable[[], slice | Tensor | None] | None, host: DiffusionHost, padding_weight: float
    ) -> None:
        self.moments: dict[str, SecondMoment] = {}
        self.conditional, self.host, self.padding_weight = conditional, host, padding_weight

    def __call__(self, name: str, module: nn.Module, inputs: Tensor) -> None:
        """Add the conditional rows of a sampling step, or the weighted rows of a text."""
        if name not in self.moments:
            self.moments[name] = SecondMoment.zeros(input_features(module), device=inputs.device)
        moment = self.moments[name]
        with exact_float32():
            if self.conditional is None:
                add_rows(moment, inputs, self._weights(inputs))
                return
            chosen = self.conditional()
            inputs = inputs if chosen is None else inputs[chosen]
            # patches of a convolution are many times its input: one picture at a time
            for part in inputs.split(1) if inputs.ndim == 4 else (inputs,):
                add_rows(moment, input_rows(module, part), None)

    def _weights(self, inputs: Tensor) -> Tensor | None:
        words = self.host.token_mask()
        if words is None or self.padding_weight == 1.0 or words.shape != inputs.shape[:-1]:
            return None
        return torch.where(words, 1.0, self.padding_weight).to(inputs.device)


def add_rows(moment: SecondMoment, inputs: Tensor, weights: Tensor | None) -> None:
    """Add rows (..., in) with weights (...), None: 1 each."""
    if weights is None:
        moment.add(inputs)
        return
    moment.add(inputs.float() * weights.sqrt()[..., None])
    moment.rows += float(weights.sum()) - weights.numel()
