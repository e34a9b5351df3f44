"""Exact small algebra: a guard against reduced precision, SPD solves in float64, thin QR and SVD of factors."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from lib_loraclr.core.deltas import LowRank


def _use_exact_products() -> Callable[[], None]:
    """Turn every reduced-precision float32 switch off; the returned call puts them back.

    torch 2.9 replaced `allow_tf32` by `fp32_precision` and reading the old after the new was set raises, so only one
    family is touched. Before 2.9 the matmul precision also governs `allow_tf32` of cuBLAS and bfloat16 on the CPU.
    """
    matmul, cudnn, mkldnn = torch.backends.cuda.matmul, torch.backends.cudnn, torch.backends.mkldnn
    if hasattr(matmul, "fp32_precision"):
        owners = [matmul, *(getattr(owner, part, None) for owner in (cudnn, mkldnn) for part in ("matmul", "conv"))]
        saved = [(owner, getattr(owner, "fp32_precision")) for owner in owners if hasattr(owner, "fp32_precision")]  # noqa: B009
        for owner, _ in saved:
            setattr(owner, "fp32_precision", "ieee")  # noqa: B010

        def restore() -> None:
            for owner, before in reversed(saved):
                setattr(owner, "fp32_precision", before)  # noqa: B010

        return restore
    precision, convolution = torch.get_float32_matmul_precision(), getattr(cudnn, "allow_tf32")  # noqa: B009
    torch.set_float32_matmul_precision("highest")
    setattr(cudnn, "allow_tf32", False)  # noqa: B010

    def restore_legacy() -> None:
        setattr(cudnn, "allow_tf32", convolution)  # noqa: B010
        torch.set_float32_matmul_precision(precision)

    return restore_legacy


@contextmanager
def exact_float32() -> Generator[None]:
    """Scope in which float32 means float32: TF32 and autocast off, grad mode off; all as before on any exit."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for kind in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.callback(_use_exact_products())
        yield


def solve_spd(matrix: Tensor, rhs: Tensor) -> Tensor:
    """X with X A = B for symmetric positive (semi)definite A (n, n) and B (m, n), by `factor_spd`, in B's dtype."""
    return torch.cholesky_solve(rhs.double().T, factor_spd(matrix)).T.to(rhs)


def factor_spd(matrix: Tensor) -> Tensor:
    """Lower Cholesky factor (n, n), float64, of a symmetric positive (semi)definite matrix.

    A singular or slightly indefinite one gets the smallest jitter, from 1e-14 of its mean diagonal upwards in decades,
    that makes it factorise. Raises `ArithmeticError` on NaN or Inf.
    """
    exact = matrix.double()
    scale = float(exact.diagonal().mean()) or 1.0
    if not torch.isfinite(exact).all():
        raise ArithmeticError("the matrix holds NaN or Inf")
    for jitter in (0.0, *(10.0**power for power in range(-14, 1))):
        shifted = exact if jitter == 0.0 else exact + jitter * scale * torch.eye(len(exact)).to(exact)
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if not int(failed):
            return factor
    raise ArithmeticError("the matrix is not positive definite")


def orthonormal(columns: Tensor) -> tuple[Tensor, Tensor]:
    """Thin QR in float64, returned in the dtype of `columns` (m, n): Q (m, q) and R (q, n) with q = min(m, n)."""
    q, r = torch.linalg.qr(columns.double())
    return q.to(columns), r.to(columns)


def thin_svd(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """SVD of up @ down, up (out, r) and down (r, in): QR of both and an r x r core, never an (out, in) SVD.

    Returns U (out, k), S (k,), V^T (k, in) with k = min(out, r, in), computed in float64 and returned as `up`'s dtype.
    """
    q_up, r_up = torch.linalg.qr(up.double())
    q_down, r_down = torch.linalg.qr(down.double().T)
    u, s, vt = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
    return (q_up @ u).to(up), s.to(up), (vt @ q_down.T).to(down)


def balanced(delta: LowRank) -> LowRank:
    """The same product with each component's `up` column and `down` row of about equal norm.

    The scales are powers of two, so not a bit of the product changes; half precision files lose least this way.
    """
    up, down = delta.up.norm(dim=0), delta.down.norm(dim=1)
    usable = (up > 0) & (down > 0)
    ratio = torch.where(usable, down / torch.where(usable, up, 1.0), 1.0)
    scale = torch.exp2(torch.round(torch.log2(ratio) / 2))
    return LowRank(delta.up * scale, delta.down / scale[:, None])
