from __future__ import annotations

import pytest
import torch

from lib_loraclr.core.deltas import Dense, LowRank
from lib_loraclr.core.overlap import overlap_matrix


def lora(seed: int, layers=("a", "b"), rank: int = 3):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: LowRank(torch.randn(8, rank, generator=generator), torch.randn(rank, 10, generator=generator))
        for name in layers
    }


def vectors(*pairs):
    """One layer of rank 1 each: writes to up, reads from down."""
    return [{"a": LowRank(torch.tensor(up)[:, None], torch.tensor(down)[None])} for up, down in pairs]


def test_kinds_by_hand():
    # The second reads the same inputs as the first but writes elsewhere; the third reads elsewhere, writes the same.
    loras = vectors(([1.0, 0.0], [1.0, 0.0]), ([0.0, 2.0], [1.0, 0.0]), ([3.0, 0.0], [0.0, 1.0]))
    assert overlap_matrix(loras).tolist() == torch.eye(3).tolist()
    assert overlap_matrix(loras, "inputs").tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert overlap_matrix(loras, "outputs").tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


def test_opposite_and_scaled_loras():
    first = lora(0)
    others = [{k: d.scaled(s) for k, d in first.items()} for s in (-2.0, 0.5, 0.0)]
    matrix = overlap_matrix([first, *others])
    assert matrix[0].tolist() == pytest.approx([1.0, -1.0, 1.0, 0.0])
    assert matrix[3, 3] == 1.0
    assert overlap_matrix([first, others[0]], "inputs")[0, 1] == pytest.approx(1.0)


@pytest.mark.parametrize("mixed", [False, True])
def test_equals_dense_matrices(mixed):
    loras = [lora(0), lora(1, ("a",), rank=5), lora(2, ("b", "c"))]
    if mixed:
        loras[1] = {"a": Dense(loras[1]["a"].dense())}
        loras[2]["b"] = Dense(loras[2]["b"].dense().clone())
    names = ("a", "b", "c")
    dense = [{n: one[n].dense().double() if n in one else torch.zeros(8, 10) for n in names} for one in loras]
    views = {"cosine": lambda w: w, "inputs": lambda w: w.T @ w, "outputs": lambda w: w @ w.T}
    for kind, view in views.items():
        flat = torch.stack([torch.cat([view(d[n].double()).flatten() for n in names]) for d in dense])
        flat = flat / flat.norm(dim=1, keepdim=True)
        assert torch.allclose(overlap_matrix(loras, kind), flat @ flat.T, atol=1e-6)


def test_no_layer_in_common_and_nothing_at_all():
    assert overlap_matrix([lora(0, ("a",)), lora(1, ("b",))]).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert overlap_matrix([]).shape == (0, 0)
    with pytest.raises(ValueError, match="sideways"):
        overlap_matrix([lora(0)], "sideways")
