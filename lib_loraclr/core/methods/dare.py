"""DARE: drop entries at random, rescale the rest, add."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from lib_loraclr.core.deltas import Dense, zero
from lib_loraclr.core.methods.base import Field, LayerProblem, LayerSolution, MergeMethod
from lib_loraclr.core.methods.ties import SCALE
from lib_loraclr.core.rank import to_total_rank


def layer_generator(seed: int, *parts: str | int) -> torch.Generator:
    """A CPU generator that depends on the seed and the parts only: the same on every machine and in every order."""
    digest = hashlib.sha256(":".join(map(str, (seed, *parts))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Dare(MergeMethod):
    """Each entry of each delta survives with probability 1 - drop and is divided by it, so the expectation holds."""

    name = "dare"
    title = "DARE"
    label = "DARE"
    place = 5
    summary = "Drops a random share of every LoRA's entries, scales up the rest and adds."
    reference = "Yu et al. 2024, DARE, equations 1 to 3"
    needs_statistics = False
    options: tuple[Field, ...] = (
        Field("drop", 0.5, "Share of entries to drop.", low=0.0, high=0.99),
        SCALE,
        Field("rank", 0, "Rank of the result; 0 takes the sum of the LoRAs' ranks.", low=0),
    )

    def solve(self, problem: LayerProblem, options: Mapping[str, Any], *, seed: int = 0) -> LayerSolution:
        """Seeded by `seed`, the layer's name and the LoRA's position; masks are drawn on the CPU for every device."""
        drop, total = options["drop"], None
        for index, delta in enumerate(problem.deltas):
            if delta is None:
                continue
            dense = delta.dense()
            drawn = torch.rand(dense.shape, generator=layer_generator(seed, problem.name, index))
            kept = dense * (drawn >= drop).to(dense.device) / (1.0 - drop)
            total = kept if total is None else total + kept
        if total is None:
            return LayerSolution(zero(problem.shape))
        return LayerSolution(to_total_rank(Dense(total * options["scale"]), problem.deltas, options["rank"]))
