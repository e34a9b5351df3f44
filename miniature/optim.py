"""Muon: momentum with orthogonalised updates for matrices and convolution kernels, Adam for everything else.

Source of the method: Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024).
A few thousand steps are all that the miniature gets, and this needs about half as many as Adam alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """Approximate U V^T of a matrix (rows x columns) by the quintic Newton-Schulz iteration.

    Every step multiplies from the left by a polynomial of the Gram matrix, so the iteration runs on the small Gram
    matrix alone and touches the long side only twice: a third of the work for a 3x3 convolution.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = g.shape[0] > g.shape[1]
    x = g.T if tall else g
    x = x / (x.norm() + 1e-7)
    s = x @ x.T
    q = None
    for _ in range(steps):
        p = torch.addmm(s, s, s, beta=b, alpha=c)
        p.diagonal().add_(a)
        q = p if q is None else p @ q
        s = p @ s @ p
    x = q @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for parameters with two or more dimensions, AdamW for the rest and for those in `adam_only`."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 0.02,
        adam_lr: float = 2e-3,
        adam_only: Iterable[nn.Parameter] = (),
    ) -> None:
        plain = {id(p) for p in adam_only}
        everything = [p for p in params if p.requires_grad]
        matrices = [p for p in everything if p.ndim >= 2 and min(p.shape[0], p[0].numel()) > 4 and id(p) not in plain]
        chosen = {id(p) for p in matrices}
        rest = [p for p in everything if id(p) not in chosen]
        groups = [{"params": matrices, "lr": lr, "peak": lr, "muon": True},
                  {"params": rest, "lr": adam_lr, "peak": adam_lr, "muon": False}]  # fmt: skip
        super().__init__([g for g in groups if g["params"]], {})

    def set_scale(self, scale: float) -> None:
        """Set every learning rate to `scale` times its peak."""
        for group in self.param_groups:
            group["lr"] = group["peak"] * scale

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update."""
        for group in self.param_groups:
            update = self._muon if group["muon"] else self._adam
            for p in group["params"]:
                if p.grad is not None:
                    update(p, group["lr"])

    def _muon(self, p: Tensor, lr: float) -> None:
        state = self.state[p]
        m = state.setdefault("m", torch.zeros_like(p))
        m.lerp_(p.grad, 0.05)
        g = p.grad.lerp(m, 0.95).reshape(p.shape[0], -1)
        update = orthogonalise(g) * max(1.0, g.shape[0] / g.shape[1]) ** 0.5
        p.mul_(1 - lr * 0.01).add_(update.reshape(p.shape), alpha=-lr)

    def _adam(self, p: Tensor, lr: float) -> None:
        state = self.state[p]
        if "t" not in state:
            state.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
        state["t"] += 1
        state["m"].lerp_(p.grad, 0.1)
        state["v"].lerp_(p.grad.square(), 0.01)
        m, v = state["m"] / (1 - 0.9 ** state["t"]), state["v"] / (1 - 0.99 ** state["t"])
        p.addcdiv_(m, v.sqrt().add_(1e-8), value=-lr)
