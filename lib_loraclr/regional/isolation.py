"""Self-attention isolation: tokens of one subject do not look at tokens of another.

For the tokens E_r that belong to subject r alone:

    out[E_r] = (1 - s) attn1(x)[E_r] + s attn1(x[E_r], context = x[everything but the other subjects' own tokens])

Tokens of the background and of overlaps look at everything and are looked at by everybody. Written as attention of a
subset on a subset, it needs no mask and runs under every attention kernel.
(Idea: Bounded Attention, Dahary et al. 2024, and LoRA-Composer, Yang et al. 2024, without their latent optimisation.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lib_loraclr.regional.layout import Layout


@dataclass(frozen=True, eq=False)
class Subject:
    """Tokens of one subject alone, and the tokens they may look at; index tensors of one layer size."""

    region: int
    tokens: Tensor
    visible: Tensor


def isolates(layout: Layout, progress: float) -> bool:
    """Whether isolation acts at this moment."""
    rules = layout.spec.isolation
    if rules.strength <= 0 or (layout.hires and not layout.spec.hires.isolate):
        return False
    return rules.start <= progress and (progress < rules.end or rules.end >= 1.0)


def subjects(layout: Layout, height: int, width: int, progress: float) -> tuple[Subject, ...]:
    """The subjects of a layer of this size; none where fewer than two have tokens of their own."""
    if not isolates(layout, progress) or min(height, width) < layout.spec.isolation.min_cells:
        return ()
    gates = layout.gates(progress)
    who = [r for r, region in enumerate(layout.regions) if region.isolate and gates[r] > 0]
    if len(who) < 2:
        return ()
    shares = layout.shares(height, width)[who].flatten(1)
    strongest = shares.amax(0)
    taken = shares.sum(0) >= 0.5  # the rest is background
    holds = taken & (shares >= 0.5 * strongest)
    alone = holds & (holds.sum(0) == 1)
    owned = alone.any(0)
    found = [
        Subject(region, mine.nonzero().flatten(), (mine | ~owned).nonzero().flatten())
        for region, mine in zip(who, alone, strict=True)
        if bool(mine.any())
    ]
    return tuple(found) if len(found) > 1 else ()


def to_device(found: tuple[Subject, ...], device: torch.device) -> tuple[Subject, ...]:
    """The same subjects with their indices elsewhere."""
    return tuple(Subject(one.region, one.tokens.to(device), one.visible.to(device)) for one in found)
