from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lib_loraclr.core.deltas import LowRank
from lib_loraclr.core.linalg import balanced, exact_float32, orthonormal, solve_spd, thin_svd


def fail_after_exact_products() -> None:
    assert not torch.is_grad_enabled()
    a = torch.full((8, 8), 1.0 + 2**-12)
    assert (a @ torch.eye(8)).dtype == torch.float32
    assert torch.equal(a @ torch.eye(8), a)
    raise KeyError("anything")


def test_switches_are_exact_inside_and_as_before_after_an_exception():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    try:
        allowed = torch.backends.cuda.matmul.allow_tf32
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with pytest.raises(KeyError), exact_float32():
                fail_after_exact_products()
            assert torch.is_autocast_enabled("cpu") if torch.__version__ >= "2.4" else True
        assert torch.is_grad_enabled()
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cuda.matmul.allow_tf32 == allowed
        assert torch.backends.cudnn.allow_tf32 is True
    finally:
        torch.set_float32_matmul_precision(before)


def test_torch_before_fp32_precision_uses_the_older_switches(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_tf32=False))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with exact_float32():
            assert torch.get_float32_matmul_precision() == "highest"
            assert torch.backends.cudnn.allow_tf32 is False
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.cudnn.allow_tf32 is True
    finally:
        torch.set_float32_matmul_precision(before)


def test_grad_mode_off_stays_off():
    with torch.no_grad():
        with exact_float32():
            pass
        assert not torch.is_grad_enabled()


def test_spd_solve_by_hand():
    # X A = B with A = diag(2, 4): columns are divided.
    a, b = torch.diag(torch.tensor([2.0, 4.0])), torch.tensor([[2.0, 4.0], [6.0, 2.0]])
    assert torch.equal(solve_spd(a, b), torch.tensor([[1.0, 1.0], [3.0, 0.5]]))


def test_spd_solve_is_as_good_as_float64_on_float32_data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 40, generator=generator) * torch.logspace(0, -3, 40)
    gram, rhs = x.T @ x, torch.randn(5, 40, generator=generator)
    oracle = torch.linalg.solve(gram.double(), rhs.double().T).T
    assert (solve_spd(gram, rhs).double() - oracle).norm() <= 1e-6 * oracle.norm()


def test_singular_matrix_is_solved_with_the_least_jitter():
    x = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
    gram = x.T @ x
    wanted = torch.tensor([[1.0, -1.0, 2.0]], dtype=torch.float64) @ x.T @ x
    solution = solve_spd(gram, wanted)
    assert (solution @ gram - wanted).norm() <= 1e-6 * wanted.norm()


def test_spd_solve_refuses_nan():
    with pytest.raises(ArithmeticError, match="NaN"):
        solve_spd(torch.tensor([[float("nan")]]), torch.ones(1, 1))


@pytest.mark.parametrize(("out", "rank", "size"), [(30, 4, 20), (6, 9, 20), (30, 9, 5)])
def test_thin_svd_equals_the_dense_svd(out: int, rank: int, size: int):
    generator = torch.Generator().manual_seed(1)
    up, down = torch.randn(out, rank, generator=generator), torch.randn(rank, size, generator=generator)
    u, s, vt = thin_svd(up, down)
    oracle = torch.linalg.svdvals(up.double() @ down.double())[: len(s)]
    assert len(s) == min(out, rank, size)
    assert torch.allclose(s.double(), oracle, rtol=1e-6, atol=1e-6)
    assert ((u * s) @ vt - up @ down).norm() <= 1e-6 * (up @ down).norm()


def test_orthonormal_reconstructs():
    columns = torch.randn(10, 4, generator=torch.Generator().manual_seed(2))
    q, r = orthonormal(columns)
    assert torch.allclose(q.T @ q, torch.eye(4), atol=1e-6)
    assert torch.allclose(q @ r, columns, atol=1e-6)


def test_balancing_changes_no_bit_of_the_product():
    generator = torch.Generator().manual_seed(3)
    up, down = torch.randn(6, 3, generator=generator) * 1e-4, torch.randn(3, 5, generator=generator) * 1e3
    up[:, 1] = 0
    result = balanced(LowRank(up, down))
    assert torch.equal(result.dense(), up @ down)
    ratio = result.up.norm(dim=0) / result.down.norm(dim=1)
    assert ratio[0] < 2
    assert ratio[0] > 0.5
    assert torch.isfinite(result.up).all()
