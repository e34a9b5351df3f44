"""The loop of published gradient fusion, the reference of the speed benchmark and of the study."""

from __future__ import annotations

import torch
from torch import Tensor


def lbfgs(rows: Tensor, wanted: Tensor, iterations: int) -> Tensor:
    """dW (out, in) that maps rows (n, in) to wanted (n, out): L-BFGS with strong Wolfe line search, history 25."""
    update = torch.zeros(wanted.shape[1], rows.shape[1])
    with torch.enable_grad():
        update.requires_grad_()
        optimiser = torch.optim.LBFGS(
            [update], lr=1, max_iter=iterations, history_size=25, tolerance_grad=1e-16, tolerance_change=1e-16,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = torch.nn.functional.mse_loss(rows @ update.T, wanted)
            loss.backward()
            return loss

        optimiser.step(closure)
    return update.detach()
