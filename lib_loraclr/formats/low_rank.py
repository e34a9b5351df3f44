"""Exact factors of a dense change of low rank, found without a d x d SVD."""

from __future__ import annotations

import torch
from torch import Tensor

from lib_loraclr.core.deltas import LowRank

_PROBES = 128
_TOLERANCE = 1e-6


def exact_factors(weight: Tensor, *, probes: int = _PROBES) -> LowRank | None:
    """Factors of `weight` (out, in) if its rank is below `probes` and they are smaller than the matrix, else None.

    Randomised range finder (Halko, Martinsson, Tropp 2011, algorithm 4.1) with a fixed seed: Y = A Omega, A ~ Q Q^T A.
    Exact means: relative residual of at most 1e-6 in the Frobenius norm, measured on the matrix itself.
    """
    matrix = weight.detach().to("cpu", torch.float64)  # else the algebra's own noise looks like rank
    out, inputs = matrix.shape
    norm = float(torch.linalg.vector_norm(matrix))
    if norm == 0.0:
        return LowRank(torch.zeros(out, 0), torch.zeros(0, inputs))
    probes = min(probes, out, inputs)
    omega = torch.randn(inputs, probes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis, _ = torch.linalg.qr(matrix @ omega)
    core = basis.T @ matrix
    left, values, right = torch.linalg.svd(core, full_matrices=False)
    tail = values.square().flip(0).cumsum(0).flip(0).sqrt()  # what is lost by stopping before each direction
    rank = int((tail > 0.5 * _TOLERANCE * norm).sum())
    if rank * (out + inputs) >= out * inputs:
        return None
    up, down = basis @ (left[:, :rank] * values[:rank].sqrt()), values[:rank].sqrt()[:, None] * right[:rank]
    up, down = up.float(), down.float()
    residual = float(torch.linalg.vector_norm(matrix - up.double() @ down.double()))
    return LowRank(up, down) if residual <= _TOLERANCE * norm else None
