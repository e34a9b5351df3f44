"""The mixture of one attention layer, on the tokens that need it.

    out(i) = w_0(i) A(q_i, C_0) + sum over r of w_r(i) A(q_i, C_r)

A(q, C) is the layer's own attention with its output projection; because the weights add up to one, mixing after that
projection is the same as before it. Each region is asked only for the tokens where its weight is above zero.
(Mix-of-Show, Gu et al. 2023, region-aware cross-attention, with soft weights in place of boxes.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_loraclr.regional.conditions import Call, RowIndex, Share, row_index
from lib_loraclr.regional.layout import base_weight

WORTH_IT = 0.9  # a larger share of the layer's own answer is computed whole
Attend = Callable[[Share, Tensor, Tensor, "Tensor | None"], Tensor]  # share, queries, context, tokens -> answer


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
    call: Call, layer: int, weights: LayerWeights, base: BaseWeights, queries: Tensor, output: Tensor, attend: Attend
) -> Tensor:
    """A layer's new output (b, n, c) from its `output` with the picture's own prompt, whole or only `base.part` of it.

    A region that has the picture to itself is asked for all rows, as a plain prompt would be: a product of fewer rows
    may round differently, and such a region must be the plain prompt to the last bit.
    """
    mixed = weighted(output, base, queries)
    for share in call.shares:
        tokens = weights.tokens[share.region]
        if tokens is not None and not len(tokens):
            continue
        if weights.sole[share.region]:
            answer = attend(share, queries, share.whole(layer, queries), None)[share.rows]
        else:
            answer = attend(share, pick(queries, share.rows, tokens), share.context(layer, queries), tokens)
        weight = weights.values[share.region]
        if tokens is not None:
            weight = weight[tokens]
        put(mixed, share.rows, tokens, answer * weight[None, :, None])
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
