"""The reference loops: by hand, against least squares, and their stages on a real model."""

from __future__ import annotations

import pytest
import torch

from benchmarks.lbfgs import lbfgs
from benchmarks.published import SEED, STEPS, Loraclr, by_lbfgs, half, merge_published, stage_of
from benchmarks.testbed import Testbed
from lib_loraclr.capture.hooks import inject
from lib_loraclr.model import SampleRequest


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_lbfgs_finds_least_squares() -> None:
    rows, wanted = draw(60, 8), draw(60, 5, seed=1)
    exact = torch.linalg.lstsq(rows.double(), wanted.double()).solution.T
    torch.testing.assert_close(lbfgs(rows, wanted, 50).double(), exact, rtol=1e-3, atol=1e-4)


def test_gradient_fusion_is_asked_for_the_deltas_response() -> None:
    rows, delta = draw(40, 6), draw(4, 6, seed=2) * 0.1
    found = by_lbfgs()("spatial", draw(4, 6, seed=3), [rows[:20], rows[20:]], [delta, delta])
    torch.testing.assert_close(found, delta, rtol=1e-3, atol=1e-4)
    none = by_lbfgs({"spatial": 0})("spatial", draw(4, 6), [rows], [delta])
    assert float(none.norm()) == 0


def test_the_loss_by_hand() -> None:
    """Two concepts, one row, one input: predictions 3 and 5, targets 4 and 9."""
    rows, weight, update = torch.tensor([[[1.0]], [[2.0]]]), torch.tensor([[2.5]]), torch.zeros(1, 1)
    wanted = torch.tensor([[[4.0]], [[4.7]]])
    # predictions 2.5 and 5: d_11 = 1.5, d_22 = 0.3; nearest wrong: |2.5 - 4.7| = 2.2, |5 - 4| = 1: no hinge
    fit = (1.5**2 + 0.3**2) / 2
    loss = Loraclr(margin=0.5).loss(rows, wanted, weight, update)
    assert float(loss) == pytest.approx(fit + 0.1 * fit, rel=1e-4)
    # margin 2: the second concept's wrong target is nearer, (2 - 1)^2 / 2; and |dW| = 0.5 costs lambda * 0.5
    hinged = Loraclr(margin=2.0).loss(rows, wanted, weight, update)
    assert float(hinged) == pytest.approx(fit * 1.1 + 0.5, rel=1e-4)
    moved = Loraclr(margin=0.0, shrink=0.1).loss(rows, wanted, weight - 0.5, update + 0.5)
    assert float(moved) == pytest.approx(fit * 1.1 + 0.05, rel=1e-4)


def test_in_half_precision_the_contrastive_term_dies() -> None:
    """Beyond 65504 the product is infinite: distances are constants and leave only mse and norm to the gradient."""
    rows, weight = draw(2, 400, 16) * 10, draw(16, 16, seed=1)
    wanted = torch.stack([x @ (weight + 0.01 * draw(16, 16, seed=k)).T for k, x in enumerate(rows)])

    def gradient(**given: object) -> torch.Tensor:
        update = torch.full((16, 16), 1e-3, requires_grad=True)
        Loraclr(shrink=0.0, **given).loss(rows, wanted, weight, update).backward()  # pyright: ignore[reportArgumentType]
        return update.grad

    dead, alive = gradient(precision="fp16", mse=0.0), gradient(precision="fp32", mse=0.0)
    assert float(dead.norm()) == 0
    assert float(alive.norm()) > 0
    assert float(gradient(precision="fp16", mse=0.1).norm()) > 0
    flat = rows.flatten(1)
    assert torch.isinf(half(flat @ flat.T).diagonal()).all()
    distances = Loraclr.distances(flat, flat, half)
    assert (distances.diagonal() <= 1e-6).all()


def test_half_rounds_and_lets_the_gradient_through() -> None:
    values = torch.tensor([1.0001, 70000.0, -3.3], requires_grad=True)
    rounded = half(values)
    assert rounded.tolist() == pytest.approx([1.0, float("inf"), -3.30078125])
    rounded[0].backward()
    assert values.grad.tolist() == [1, 0, 0]


def test_the_loop_improves_and_never_returns_worse_than_its_start() -> None:
    rows, weight = [draw(30, 8, seed=k) for k in range(2)], draw(6, 8, seed=9)
    deltas = [draw(6, 8, seed=20 + k) * 0.004 for k in range(2)]
    found = Loraclr()("spatial", weight, rows, deltas)
    assert 0 < float(found.abs().max()) <= 50 * 1e-4 * 1.1, "AdamW travels at most a rate a step"

    def residual(update: torch.Tensor) -> float:
        return float(sum((x @ (update - d).T).square().sum() for x, d in zip(rows, deltas, strict=True)))

    assert residual(found) < residual(torch.zeros(6, 8))


def test_stages_come_in_order_and_build_on_each_other(toy: Testbed) -> None:
    """Row counts by hand; keys and values see the merged text encoder; the spatial stage sees both merged."""
    seen: list[tuple[str, list[torch.Tensor]]] = []

    def solver(stage, weight, inputs, deltas):
        seen.append((stage, list(inputs)))
        return sum(deltas) / len(deltas)

    concepts = toy.concepts(["zor", "kib"])
    with toy.host.ready():
        merged = merge_published(toy.host, concepts, solver)
        stages = [stage for stage, _ in seen]
        assert stages == sorted(stages, key=["text", "keys and values", "spatial"].index)
        names = sorted(merged, key=lambda name: ["text", "keys and values", "spatial"].index(stage_of(name)))
        assert [stage_of(name) for name in names] == stages
        rows = dict(seen)
        called = int(toy.host.encode(["zor man"]).token_mask.sum())
        whole = int(toy.host.encode(["photo of a zor man"]).token_mask.sum())
        assert len(rows["text"][0]) <= called + whole
        assert len(rows["keys and values"][0]) <= 2 * (called - 2 + 1)
        text = {name: delta for name, delta in merged.items() if stage_of(name) == "text"}
        with inject(toy.host.layers(), text):
            context = toy.host.encode(["zor man"])
        last = context.context[0, context.token_mask[0].nonzero()[-1, 0]]
        kv = rows["keys and values"][0]
        assert any(torch.allclose(row, last.half().float(), atol=1e-3) for row in kv), "end token, merged text encoder"
        spatial = [inputs[0] for stage, inputs in seen if stage == "spatial"]
        assert len(spatial[0]) % STEPS == 0
        side = toy.host.info.native_size
        toy.host.sample(SampleRequest(["x"], [SEED], 1, (side, side)))  # hooks are gone: a plain call still works
    assert all(merged[name].shape == toy.concepts(["zor"])[0].deltas[name].shape for name in merged)
