"""SDXL's pooled text vector, region by region, in one pass.

SDXL conditions every residual block on one vector per picture: emb = time(t) + label(pooled text, sizes). Its
projection is broadcast over the features, so with one projection per region it can vary over the picture:

    h(i) + w_0(i) P(emb_0) + sum over r of w_r(i) P(emb_r)

The projection's own output is replaced by zero and the map is added where the block normalises the sum. Sizes and crops
are the picture's: only the first features, the pooled text, are a region's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lib_loraclr.regional.attention import BaseWeights, LayerWeights
from lib_loraclr.regional.conditions import Call, RegionRows
from lib_loraclr.regional.sites import Residual, Sites

WeightsFor = Callable[[int, int, Tensor], tuple[LayerWeights, BaseWeights]]  # height, width, like


class PooledMap:
    """The hooks of one UNet. Idle outside `begin` and `end`, and for calls whose texts have no pooled vector."""

    def __init__(self, sites: Sites, weights_for: WeightsFor) -> None:
        self.sites, self.weights_for = sites, weights_for
        self._call: Call | None = None
        self._time: Tensor | None = None
        self._own: list[tuple[RegionRows, Tensor]] = []
        self._pending: dict[str, tuple[Tensor, list[tuple[RegionRows, Tensor]]]] = {}

    def install(self) -> list[RemovableHandle]:
        """Hook the embeddings and every residual block; nothing for models without a pooled vector."""
        time, label = self.sites.time_embed, self.sites.label_embed
        if time is None or label is None:
            return []
        handles = [time.register_forward_hook(self._after_time), label.register_forward_hook(self._after_label)]
        for site in self.sites.residuals:
            handles.append(site.projection.register_forward_hook(self._after_projection(site)))
            handles.append(site.add_at.register_forward_pre_hook(self._before_sum(site)))
        return handles

    def begin(self, call: Call) -> None:
        """A UNet call starts."""
        self.end()
        self._call = call

    @property
    def complete(self) -> bool:
        """False if a projection was taken away and not given back; after a whole call: this UNet works differently."""
        return not self._pending

    def end(self) -> None:
        """It is over, or was broken off."""
        self._call, self._time, self._own, self._pending = None, None, [], {}

    def _after_time(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if self._call is not None:
            self._time = output

    def _after_label(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if self._call is None or self._time is None:
            return
        given, self._own = inputs[0], []
        for group in self._call.groups:
            vectors = [text.pooled for text in group.texts if text.pooled is not None]
            if len(vectors) < len(group.texts):
                continue
            pooled = torch.stack(vectors).to(given)
            # all rows together: a product of fewer rows may round differently, and vectors cost nothing
            changed = given.clone()
            changed[group.rows, : pooled.shape[1]] = pooled
            self._own.append((group, self._time + module.forward(changed)))

    def _after_projection(self, site: Residual) -> Callable[..., Tensor | None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
            if not self._own:
                return None
            own = [(group, module.forward(site.activation(embedding))) for group, embedding in self._own]
            self._pending[site.name] = output, own
            return torch.zeros_like(output)

        return hook

    def _before_sum(self, site: Residual) -> Callable[..., Any]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> Any:
            pending = self._pending.pop(site.name, None)
            if pending is None:
                return None
            features: Tensor = inputs[0]
            return (features + self._map(features, *pending), *inputs[1:])

        return hook

    def _map(self, features: Tensor, output: Tensor, own: list[tuple[RegionRows, Tensor]]) -> Tensor:
        height, width = features.shape[-2:]
        weights, base = self.weights_for(height, width, output)
        spread = output[:, :, None] * base.values[:, None]
        for group, projected in own:
            rows = group.rows if isinstance(group.rows, slice) else group.rows.to(spread.device)
            spread[rows] += projected[rows, :, None] * weights.values[group.region][None, None]
        return spread.unflatten(2, (height, width)).to(features.dtype)
