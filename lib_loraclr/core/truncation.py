"""The best approximation of a delta at a rank, measured on the weights or on what the layer's inputs see of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lib_loraclr.core.deltas import Delta, Dense, LowRank
from lib_loraclr.core.linalg import orthonormal, thin_svd


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
