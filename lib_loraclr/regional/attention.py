"""The mixture of one attention layer, on the tokens that need it.

    out(i) = w_0(i) A(q_i, C_0) + sum over r of w_r(i) A(q_i, C_r)

A(q, C) is the layer's own attention with its output projection; because the weights add up to one, mixing after that
projection is the same as before it. Each region is asked only for the tokens where its weight is above zero.
(Mix-of-Show, Gu et al. 2023, region-aware cross-attention, with soft weights in place of boxes.)

The layer's installed `forward` is called once more for other tokens and another text, whatever the host calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lib_loraclr.regional.conditions import Call, RegionRows, RowIndex, row_index
from lib_loraclr.regional.weights import base_weight

CONTEXT_NAMES = ("context", "encoder_hidden_states")
MASK_NAMES = ("mask", "attention_mask")


def queries_of(inputs: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    """The first argument of an attention call: (b, n, c)."""
    return inputs[0] if inputs else named[_present(named, ("x", "hidden_states"))]


def context_of(inputs: tuple[Any, ...], named: dict[str, Any]) -> Tensor | None:
    """The text that was attended to; None in self-attention."""
    if len(inputs) > 1:
        return inputs[1]
    return next((named[name] for name in CONTEXT_NAMES if named.get(name) is not None), None)


def attend(
    module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], queries: Tensor, context: Tensor
) -> Tensor:
    """`module.forward` as it was called, with these queries and this context. No hook of the module itself fires.

    A separate `value` becomes the context too, and masks, which belong to other tokens, are dropped.
    """
    arguments, keywords = rephrased(inputs, named, queries, context)
    for name in MASK_NAMES:
        if keywords.get(name) is not None:
            keywords[name] = None
    return module.forward(*arguments, **keywords)


def rephrased(
    inputs: tuple[Any, ...], named: dict[str, Any], queries: Tensor, context: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of an attention call with other queries and another context, which is the `value` as well."""
    arguments, keywords = list(inputs), dict(named)
    if arguments:
        arguments[0] = queries
    else:
        keywords[_present(named, ("x", "hidden_states"))] = queries
    if len(arguments) > 1:
        arguments[1] = context
    else:
        keywords[_present(named, CONTEXT_NAMES)] = context
    if keywords.get("value") is not None:
        keywords["value"] = context
    return tuple(arguments), keywords


def divisible(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> bool:
    """Whether a layer may be called for a part of its rows and tokens without anybody noticing.

    Not where another extension has put its own `forward` or hooks on it, which may count rows, and not where a mask or
    a separate value came with the call. One hook of each kind is the regional runtime's own.
    """
    own = vars(module)
    alone = "forward" not in own and len(own["_forward_hooks"]) == len(own["_forward_pre_hooks"]) == 1
    extra = named.get("value") is not None or any(named.get(name) is not None for name in MASK_NAMES)
    return alone and not extra and len(inputs) <= 2 and context_of(inputs, named) is not None


def _present(named: dict[str, Any], names: tuple[str, ...]) -> str:
    return next((name for name in names if name in named), names[0])


WORTH_IT = 0.9  # a larger share of the layer's own answer is computed whole
AttendRegion = Callable[
    [RegionRows, Tensor, Tensor, "Tensor | None"], Tensor
]  # group, queries, context, tokens -> answer


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """Weights of one layer size at one moment. `values` (regions, tokens); `tokens[r]` where above zero, None: all."""

    values: Tensor
    tokens: tuple[Tensor | None, ...]
    sole: tuple[bool, ...]  # regions that have every token to themselves
    exact: Tensor  # values in float64 on the CPU, for base weights

    @classmethod
    def of(cls, weights: Tensor, like: Tensor) -> LayerWeights:
        """From (regions, h, w) float64, for tensors like `like`."""
        flat = weights.flatten(1)
        found = [one.nonzero().flatten() for one in flat]
        tokens = tuple(None if len(one) == flat.shape[1] else one.to(like.device) for one in found)
        return cls(flat.to(like.device, like.dtype), tokens, tuple((flat == 1).all(1).tolist()), flat)

    def base(self, present: Sequence[Sequence[bool]]) -> BaseWeights:
        """What the regions that a row has leave over; `present[row][region]`, one row where all are alike."""
        weights = torch.stack([base_weight(self.exact * torch.tensor(list(one))[:, None]) for one in present])
        part = None if any(self.sole) else needed(weights > 0)
        return BaseWeights(weights.to(self.values), None if part is None else part.to(self.values.device))


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows and tokens of a layer's input."""

    rows: RowIndex
    tokens: Tensor

    def to(self, device: torch.device) -> Part:
        """The same with its indices elsewhere."""
        return Part(self.rows, self.tokens.to(device))


@dataclass(frozen=True, eq=False)
class BaseWeights:
    """w_0 (b or 1, n), and where the layer's own answer is needed at all; `part` None: everywhere."""

    values: Tensor
    part: Part | None


def needed(used: Tensor) -> Part | None:
    """The smallest part of (b or 1, n) that holds every True; None where it is nearly everything."""
    rows, tokens = used.any(1).nonzero().flatten().tolist(), used.any(0).nonzero().flatten()
    if not rows:  # a call cannot be empty
        return Part(slice(0, 1), torch.zeros(1, dtype=torch.long))
    if len(rows) * len(tokens) > WORTH_IT * used.numel():
        return None
    return Part(slice(None) if len(rows) == used.shape[0] else row_index(rows), tokens)


def mix(
    call: Call,
    layer: int,
    weights: LayerWeights,
    base: BaseWeights,
    queries: Tensor,
    output: Tensor,
    attend_region: AttendRegion,
) -> Tensor:
    """A layer's new output (b, n, c) from its `output` with the picture's own prompt, whole or only `base.part` of it.

    A region that has the picture to itself is asked for all rows, as a plain prompt would be: a product of fewer rows
    may round differently, and such a region must be the plain prompt to the last bit.
    """
    mixed = weighted(output, base, queries)
    for group in call.groups:
        tokens = weights.tokens[group.region]
        if tokens is not None and not len(tokens):
            continue
        if weights.sole[group.region]:
            answer = attend_region(group, queries, group.whole(layer, queries), None)[group.rows]
        else:
            answer = attend_region(group, pick(queries, group.rows, tokens), group.context(layer, queries), tokens)
        weight = weights.values[group.region]
        if tokens is not None:
            weight = weight[tokens]
        put(mixed, group.rows, tokens, answer * weight[None, :, None])
    return mixed


def weighted(output: Tensor, base: BaseWeights, queries: Tensor) -> Tensor:
    """w_0 times the layer's own answer, (b, n, c): zero where it was not computed."""
    if base.part is None:
        return output * base.values[:, :, None]
    mixed = output.new_zeros(*queries.shape[:2], output.shape[2])
    weights = base.values.expand(len(queries), -1)[base.part.rows].index_select(1, base.part.tokens)
    put(mixed, base.part.rows, base.part.tokens, output * weights[:, :, None])
    return mixed


def pick(values: Tensor, rows: RowIndex, tokens: Tensor | None) -> Tensor:
    """values[rows][:, tokens] of (b, n, c)."""
    chosen = values[rows]
    return chosen if tokens is None else chosen.index_select(1, tokens)


def put(target: Tensor, rows: RowIndex, tokens: Tensor | None, values: Tensor) -> None:
    """target[rows][:, tokens] += values, in place."""
    if isinstance(rows, slice):
        part = target[rows]
        if tokens is None:
            part += values
        else:
            part.index_add_(1, tokens, values)
    elif tokens is None:
        target[rows] += values
    else:
        target[rows.to(target.device)[:, None], tokens[None]] += values
