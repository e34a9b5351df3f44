"""What an error in the queries or keys of an attention costs: what it does to the scores, not how large it is.

A score is q . k, head by head. An error e of a key changes the scores of the queries q by q . e, whose mean square is
e^T A e with A the second moment of the queries; an error that is orthogonal to all of a head's queries costs nothing.
The same holds for a query's error with the keys. Per concept, with p the partner layer (to_q of to_k and so on):

    A_i = block diagonal over heads of (W_p + dW_p,i) C_p,i (W_p + dW_p,i)^T,   A_i <- A_i / mean(diag A_i) + FLOOR I

and A_0 the same from the base weight on neutral inputs. Second moments are all that is captured, so a bias of the
partner (text encoders have one) is not in A.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_loraclr.core.deltas import Delta
from lib_loraclr.core.moments import SecondMoment
from lib_loraclr.core.problem import Statistics

FLOOR = 1e-2  # cost of an error that no captured partner sees, beside 1 for the mean: other prompts do see it


@dataclass(frozen=True)
class AttentionMetric:
    """The `OutputMetric` of a query or key layer, from its partner.

    `weight()` is the partner's base weight (out, in_p), `deltas` and `statistics` what a `LayerProblem` of it would
    hold. A matrix is made when it is asked for: nothing of the size of a layer is held in between.
    """

    weight: Callable[[], Tensor]
    heads: int
    deltas: Sequence[Delta | None]
    statistics: Statistics

    def concept(self, index: int, device: torch.device) -> Tensor:
        """A_i (out, out), float64; the identity where nothing was captured."""
        weight, delta = self._base(device), self.deltas[index]
        if delta is not None:
            weight = weight + delta.to(device, torch.float64).dense()
        return self._of(weight, self.statistics.concepts[index])

    def neutral(self, device: torch.device) -> Tensor:
        """A_0 (out, out), float64; the identity without neutral inputs of the partner."""
        weight, moment = self._base(device), self.statistics.neutral
        return torch.eye(len(weight)).to(weight) if moment is None else self._of(weight, moment)

    def _base(self, device: torch.device) -> Tensor:
        return self.weight().to(device, torch.float64)

    def _of(self, weight: Tensor, moment: SecondMoment) -> Tensor:
        identity = torch.eye(len(weight)).to(weight)
        rows = weight.unflatten(0, (self.heads, -1))
        seen = torch.block_diag(*(rows @ moment.mean().to(weight) @ rows.transpose(1, 2)))
        mean = float(seen.diagonal().mean())
        return seen / mean + FLOOR * identity if mean > 0 else identity
