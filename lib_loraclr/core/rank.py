"""How large a merged file may be: exact, one rank for all, a share of the energy, or a size shared out among layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_loraclr.core.deltas import Delta, Dense, LayerShape, LowRank
from lib_loraclr.core.errors import InputError
from lib_loraclr.core.linalg import orthonormal, thin_svd

__all__ = ["LAYER_OVERHEAD", "RankPolicy", "allocate", "bytes_per_rank", "truncate"]

LAYER_OVERHEAD = 420  # bytes of a layer besides its factors: alpha and three entries of the safetensors header
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class RankPolicy:
    """`kind` is exact, fixed (`value` a rank), energy (`value` a share) or size (`value` in MB of 10^6 bytes)."""

    kind: str = "exact"
    value: float = 0.0

    @classmethod
    def parse(cls, text: str | int) -> RankPolicy:
        """One of "exact", "16", "energy=0.95", "size=20"; InputError "bad-rank" otherwise."""
        name, _, number = str(text).strip().lower().partition("=")
        if name == "exact" and not number:
            return cls()
        kind, number = ("fixed", name) if name.isascii() and name.isdigit() and not number else (name, number)
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        high = {"fixed": math.inf, "energy": 1.0, "size": math.inf}.get(kind, math.nan)
        if not 0 < value <= high or math.isinf(value):
            raise InputError(
                "bad-rank",
                f"'{text}' is no rank: use exact, a number from 1, energy=0.95 (0 to 1) or size=20 (MB).",
                key="rank",
            )
        return cls(kind, value)

    def __str__(self) -> str:
        return {"exact": "exact", "fixed": f"{self.value:g}"}.get(self.kind, f"{self.kind}={self.value:g}")


def bytes_per_rank(shape: LayerShape, bytes_per_value: int) -> int:
    """What one more rank of a layer adds to the file."""
    return (shape.out_features + shape.in_features) * bytes_per_value


def allocate(
    policy: RankPolicy, spectra: Mapping[str, Sequence[float] | Tensor], costs: Mapping[str, int]
) -> dict[str, int]:
    """Rank of every layer, at least 1.

    `spectra[name]`: energies of its components, descending; `costs[name]`: bytes of one rank. For energy and size,
    components are taken by the share of their own layer's energy that a byte buys, the best first, so that the next
    rank goes where leaving it out would lose most; a layer counts as one whatever the scale of its features. ValueError
    for other policies, which need no allocation; InputError "size-too-small" when rank 1 everywhere does not fit.
    """
    if policy.kind not in ("energy", "size"):
        raise ValueError(f"nothing to allocate for rank {policy}")
    names = sorted(spectra)
    lists = {name: [float(value) for value in spectra[name]] for name in names}
    totals = {name: sum(lists[name]) for name in names}
    ranks = dict.fromkeys(names, 1)
    budget = policy.value * MEGABYTE - sum(costs[name] + LAYER_OVERHEAD for name in names)
    if policy.kind == "size" and budget < 0:
        least = (policy.value * MEGABYTE - budget) / MEGABYTE
        raise InputError(
            "size-too-small",
            f"{policy.value:g} MB cannot hold these layers; rank 1 everywhere takes {least:.2f} MB.",
            key="rank",
        )
    active = [name for name in names if totals[name] > 0]
    missing = policy.value * len(active) - sum(lists[name][0] / totals[name] for name in active)
    queue = sorted(
        (-value / totals[name] / costs[name], name, position)
        for name in active
        for position, value in enumerate(lists[name])
        if position and value > 0
    )
    closed: set[str] = set()
    for gain, name, position in queue:
        if policy.kind == "energy":
            if missing <= 1e-9 * len(active):
                break
            missing += gain * costs[name]
        elif name in closed or budget < costs[name]:
            closed.add(name)
            continue
        else:
            budget -= costs[name]
        ranks[name] = position + 1
    return ranks


def spectrum(delta: Delta, gram: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Components of dW ordered by energy: energies (q,) descending, basis (out, q), coordinates (q, in).

    The energies are the squared singular values of dW G^1/2 for the Gram G (in, in) of the inputs (G = I when None),
    that is, what the mean squared output loses when the component goes. They are the eigenvalues of dW G dW^T, taken
    in the span of the up factor: neither a root nor an inverse of G, nor an SVD larger than the rank.
    """
    if isinstance(delta, LowRank):
        basis, core = orthonormal(delta.up)
        core = core @ delta.down
    else:
        basis, core = None, delta.weight
    exact = core.double()
    metric = exact @ exact.T if gram is None else exact @ gram.double() @ exact.T
    energies, vectors = torch.linalg.eigh((metric + metric.T) / 2)
    energies, vectors = energies.flip(0).clamp(min=0), vectors.flip(1)
    rotated = vectors.to(core)
    return energies, rotated if basis is None else basis @ rotated, (vectors.T @ exact).to(core)


def truncate(delta: Delta, rank: int, gram: Tensor | None = None) -> LowRank:
    """The rank-`rank` delta nearest to dW in the metric of the Gram (in, in), with sqrt(S) on both factors.

    Projecting dW on the leading left singular vectors of dW G^1/2 is that optimum (Eckart and Young).
    """
    _, basis, coordinates = spectrum(delta, gram)
    return split(basis[:, :rank], coordinates[:rank])


def split(up: Tensor, down: Tensor) -> LowRank:
    """The same product with its singular values shared evenly: up = U sqrt(S), down = sqrt(S) V^T."""
    u, s, vt = thin_svd(up, down)
    root = s.clamp(min=0).sqrt()
    return LowRank(u * root, root[:, None] * vt)


def to_total_rank(merged: Dense, deltas: Sequence[Delta | None], rank: int) -> Delta:
    """A dense merge at `rank`, 0 meaning the sum of the inputs' ranks; dense still where that is full rank."""
    wanted = rank or sum(delta.rank for delta in deltas if delta is not None)
    return merged if wanted >= merged.rank else truncate(merged, wanted)
