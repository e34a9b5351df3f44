"""How much LoRAs stand in each other's way, from their files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lib_loraclr.core.deltas import Delta, LowRank


def overlap_matrix(loras: Sequence[Mapping[str, Delta]], kind: str = "cosine") -> Tensor:
    """N x N overlap, float64, ones on the diagonal; layers are summed, so strong layers count most.

    `cosine`: sum <dW_i, dW_j> / (|dW_i| |dW_j|), in -1 to 1: do they write the same change?
    `inputs`: cosine of dW_i^T dW_i and dW_j^T dW_j, in 0 to 1: do they act on the same input directions, whatever they
    write there? High values mean that each fires on the other's features, which is what bleeds.
    `outputs`: the same of dW_i dW_i^T: do they write into the same directions?
    Exact from factors: r x r products only. A LoRA that is zero overlaps with nothing.
    """
    total = torch.zeros(len(loras), len(loras), dtype=torch.float64)
    for name in sorted(set().union(*loras)):
        holders = [index for index, lora in enumerate(loras) if name in lora]
        total[torch.tensor(holders)[:, None], torch.tensor(holders)] += _products(
            [loras[i][name] for i in holders], kind
        )
    norms = total.diagonal().clamp(min=0).sqrt()
    scale = torch.outer(norms, norms)
    overlap = torch.where(scale > 0, total / torch.where(scale > 0, scale, 1.0), 0.0)
    overlap.fill_diagonal_(1.0)
    return overlap


def _products(deltas: Sequence[Delta], kind: str) -> Tensor:
    """The inner products (n, n) of one layer that `kind` is the cosine of."""
    factors = [_factors(delta) for delta in deltas]
    result = torch.zeros(len(deltas), len(deltas), dtype=torch.float64)
    for i, (up_i, down_i) in enumerate(factors):
        for j, (up_j, down_j) in enumerate(factors[: i + 1]):
            ups, downs = up_i.T @ up_j, down_i @ down_j.T
            if kind == "cosine":
                value = (ups * downs).sum()
            elif kind == "inputs":
                value = (((up_i.T @ up_i) @ downs @ (up_j.T @ up_j)) * downs).sum()
            elif kind == "outputs":
                value = (((down_i @ down_i.T) @ ups @ (down_j @ down_j.T)) * ups).sum()
            else:
                raise ValueError(f"unknown kind of overlap {kind!r}")
            result[i, j] = result[j, i] = value.cpu()
    return result


def _factors(delta: Delta) -> tuple[Tensor, Tensor]:
    """(up, down) in float64; a dense delta is its own factor on the longer side and the identity on the other."""
    if isinstance(delta, LowRank):
        return delta.up.double(), delta.down.double()
    weight = delta.weight.double()
    if weight.shape[0] <= weight.shape[1]:
        return torch.eye(weight.shape[0]).to(weight), weight
    return weight, torch.eye(weight.shape[1]).to(weight)
