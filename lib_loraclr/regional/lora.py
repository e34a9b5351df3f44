"""LoRAs that act in one region only: y = W x + sum over r of w_r dW_r x, cell by cell.

Inside a region's own cross-attention the keys and values carry its LoRA in full, because they are attended to in that
region alone; the picture's own keys and values carry none. Every other layer adds the update with the region's weight
at its own size. A layer that works on one vector per picture (embedding projections) adds it by the region's area.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lib_loraclr.core.deltas import Delta
from lib_loraclr.core.errors import InputError
from lib_loraclr.core.response import Response
from lib_loraclr.regional.sites import Sites
from lib_loraclr.regional.spec import RegionalSpec


@dataclass(frozen=True)
class RegionalRequest:
    """Regions of a picture. `deltas[r]` are the LoRAs of active region r by layer name; `triggers` by concept."""

    spec: RegionalSpec
    deltas: Sequence[Mapping[str, Delta]] = ()
    triggers: Mapping[str, str] = field(default_factory=dict)


def component(deltas: Mapping[str, Delta], *, text: bool) -> dict[str, Delta]:
    """The layers of the text encoders, or those of the UNet."""
    return {name: delta for name, delta in deltas.items() if name.startswith("text_encoder") == text}


@dataclass(frozen=True)
class RegionDeltas:
    """`deltas[r]`: layer name -> update of region r, weight included; `modules`: layer name -> the layer."""

    deltas: Sequence[Mapping[str, Delta]]
    modules: Mapping[str, nn.Module]


@dataclass
class Scope:
    """What is running: layer size of the current spatial transformer; the region whose text is attended to, if any.

    `tokens` are the queries of the running call and `keys` what it looks at, where these are not all of the layer's.
    """

    size: tuple[int, int] | None = None
    region: int | None = None
    tokens: Tensor | None = None
    keys: Tensor | None = None


@dataclass(frozen=True, eq=False)
class MaskedLoras:
    """The hooks of all layers that a region's LoRA touches."""

    loras: RegionDeltas
    sites: Sites
    scope: Callable[[], Scope | None]
    weights: Callable[[int, int, Tensor], Tensor]  # height, width, like -> (regions, tokens)
    _cross_keys: set[nn.Module] = field(default_factory=set)
    _self_keys: set[nn.Module] = field(default_factory=set)
    _responses: dict[str, list[tuple[int, Response]]] = field(default_factory=dict)

    def install(self) -> list[RemovableHandle]:
        """Hook every layer once. Raises InputError "unknown-layer" or "shape-mismatch" before anything is hooked."""
        for block in self.sites.blocks:
            self._cross_keys.update(_keys_and_values(block.attn2))
            self._self_keys.update(_keys_and_values(block.attn1))
        for name in dict.fromkeys(name for deltas in self.loras.deltas for name in deltas):
            if name in self._responses:  # installed before: what was cast for the device serves again
                continue
            if name not in self.loras.modules:
                raise InputError("unknown-layer", f"The loaded model has no layer {name}.", key=name)
            module = self.loras.modules[name]
            self._responses[name] = [
                (region, Response(name, module, deltas[name]))
                for region, deltas in enumerate(self.loras.deltas)
                if name in deltas
            ]
        return [
            self.loras.modules[name].register_forward_hook(self._hook(parts)) for name, parts in self._responses.items()
        ]

    def _hook(self, parts: Sequence[tuple[int, Response]]) -> Callable[..., Tensor | None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            scope = self.scope()
            if scope is None:
                return None
            given: Tensor = inputs[0]
            if module in self._cross_keys:
                own = [response for region, response in parts if region == scope.region]
                return output + own[0](module, given).to(output.dtype) if own else None
            weights = self._layer_weights(module, output, scope)
            if weights is None:
                return None
            for region, response in parts:
                output = output + response(module, given).to(output.dtype) * weights[region]
            return output

        return hook

    def _layer_weights(self, module: nn.Module, output: Tensor, scope: Scope) -> Tensor | None:
        """Weights that broadcast over an output: (regions, 1, h, w), (regions, tokens, 1) or (regions, 1)."""
        if output.ndim == 4:
            height, width = output.shape[-2:]
            return self.weights(height, width, output).unflatten(1, (1, height, width))
        if output.ndim == 2 or scope.size is None:
            return self.weights(1, 1, output)
        weights = self.weights(*scope.size, output)
        chosen = scope.keys if module in self._self_keys else scope.tokens
        if chosen is not None:
            weights = weights[:, chosen]
        return weights[:, :, None] if weights.shape[1] == output.shape[1] else None


def _keys_and_values(attention: nn.Module) -> list[nn.Module]:
    found = (getattr(attention, name, None) for name in ("to_k", "to_v"))
    return [module for module in found if isinstance(module, nn.Module)]
