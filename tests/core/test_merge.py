from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lib_loraclr.core.deltas import Dense, LayerShape, LowRank, add
from lib_loraclr.core.errors import Cancelled, InputError, LoraclrError
from lib_loraclr.core.fusion import activation_gram
from lib_loraclr.core.merge import merge_layers, on_device
from lib_loraclr.core.methods import METHODS
from lib_loraclr.core.moments import SecondMoment
from lib_loraclr.core.rank import LAYER_OVERHEAD, RankPolicy, truncate


@pytest.fixture
def problems(world):
    """Three layers of different width, the last without statistics."""
    made = [
        world(count=3, size=s, out=o, seed=i, name=f"layer.{i}").problem
        for i, (s, o) in enumerate([(24, 20), (16, 40)])
    ]
    return [*made, replace(world(count=3, name="layer.2").problem, statistics=None)]


def bits(merged) -> list[bytes]:
    tensors = []
    for name in sorted(merged):
        delta = merged[name].delta
        tensors += [delta.up, delta.down] if isinstance(delta, LowRank) else [delta.weight]
    return [t.contiguous().numpy().tobytes() for t in tensors]


@pytest.mark.parametrize("method", list(METHODS))
def test_same_bits_whatever_the_order_and_the_global_seed(problems, method):
    torch.manual_seed(0)
    first = merge_layers(problems, method, seed=3)
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    second = merge_layers(problems[::-1], method, seed=3)
    assert torch.equal(state, torch.random.get_rng_state())
    assert bits(first) == bits(second)
    assert list(first) == list(second) == ["layer.0", "layer.1", "layer.2"]
    assert all(layer.delta.dense().dtype == torch.float32 for layer in first.values())


def test_a_data_driven_method_averages_layers_without_statistics(problems):
    merged = merge_layers(problems, "contrastive")
    assert merged["layer.2"].info == {"fallback": "average"}
    assert merged["layer.2"].fidelity is None
    assert bits({"x": merged["layer.2"]}) == bits({"x": merge_layers(problems, "average")["layer.2"]})
    assert "fallback" not in merged["layer.0"].info
    assert len(merged["layer.0"].fidelity) == 3


def test_a_model_free_method_is_measured_where_statistics_exist(problems):
    merged = merge_layers(problems, "sum")
    assert merged["layer.0"].fidelity[0].kept < 1
    assert merged["layer.2"].fidelity is None


def test_without_measuring_the_merge_is_the_same(problems):
    full, bare = (merge_layers(problems, "gradient-fusion", measure=measure) for measure in (True, False))
    assert bits(full) == bits(bare)
    assert all(layer.fidelity is None for layer in bare.values())


def test_a_correction_inside_the_solution_is_added_exactly(problems):
    plain = merge_layers(problems, "gradient-fusion")
    twice = {name: layer.delta for name, layer in plain.items()}
    corrected = merge_layers(problems, "gradient-fusion", correction=twice)
    for name, layer in corrected.items():
        assert layer.delta.rank == plain[name].delta.rank
        assert torch.allclose(layer.delta.dense(), 2 * twice[name].dense(), rtol=1e-5, atol=1e-5)
        assert layer.fidelity == plain[name].fidelity, "what the solution keeps"
    alone = merge_layers(problems, "gradient-fusion", correction={"layer.1": twice["layer.1"]})
    assert bits({"x": alone["layer.0"]}) == bits({"x": plain["layer.0"]})
    assert bits({"x": alone["layer.1"]}) == bits({"x": corrected["layer.1"]})


@pytest.mark.parametrize("policy", [None, RankPolicy.parse("2"), RankPolicy.parse("energy=0.9")])
def test_a_correction_outside_it_keeps_the_rank_and_the_energy(problems, policy):
    """The sum is cut in the metric of the layer's inputs, whatever the rank that is asked for."""
    generator = torch.Generator().manual_seed(4)
    extra = {
        p.name: LowRank(torch.randn(p.shape.out_features, 3, generator=generator),
                        torch.randn(3, p.shape.in_features, generator=generator))
        for p in problems[:2]
    }  # fmt: skip
    plain = merge_layers(problems, "gradient-fusion")
    corrected = merge_layers(problems, "gradient-fusion", rank=policy, correction=extra)
    for problem in problems[:2]:
        solution, found = plain[problem.name].delta, corrected[problem.name].delta
        gram = activation_gram(problem.statistics, "cpu")
        total = add([solution, extra[problem.name]])
        assert solution.rank < total.rank
        assert found.rank <= solution.rank
        oracle = truncate(total, found.rank, gram).dense()
        assert torch.allclose(found.dense(), oracle, rtol=1e-3, atol=1e-3 * float(oracle.abs().max()))


def test_a_correction_of_a_full_matrix_is_added_as_it_is(problems):
    wide = replace(problems[0], deltas=[Dense(delta.dense()) for delta in problems[0].deltas])
    extra = torch.randn(wide.shape.out_features, wide.shape.in_features, generator=torch.Generator().manual_seed(6))
    plain, corrected = (merge_layers([wide], "gradient-fusion", correction=given) for given in
                        (None, {wide.name: Dense(extra)}))  # fmt: skip
    assert isinstance(plain[wide.name].delta, Dense)
    assert torch.allclose(corrected[wide.name].delta.dense(), plain[wide.name].delta.dense() + extra, atol=1e-5)


def test_half_precision_factors_are_merged_exactly(problems, true):
    half = [d.to("cpu", torch.float16) for d in problems[0].deltas]
    merged = merge_layers([replace(problems[0], deltas=half)], "sum")["layer.0"].delta
    oracle = sum(true(delta) for delta in half)
    assert (true(merged) - oracle).norm() <= 1e-6 * oracle.norm()


def test_ranks(problems):
    exact = merge_layers(problems, "gradient-fusion")
    assert [layer.delta.rank for layer in exact.values()] == [9, 9, 9]
    fixed = merge_layers(problems, "gradient-fusion", rank=RankPolicy.parse("4"))
    assert [layer.delta.rank for layer in fixed.values()] == [4, 4, 4]
    assert [layer.delta.rank for layer in merge_layers(problems, "sum", rank=RankPolicy.parse("64")).values()] == [
        9,
        9,
        9,
    ]
    half = merge_layers(problems, "gradient-fusion", rank=RankPolicy.parse("energy=0.9"))
    assert all(1 <= layer.delta.rank < 9 for layer in half.values())
    kept = [merged["layer.0"].fidelity[0].kept for merged in (exact, half)]
    assert kept[0] > kept[1]


@pytest.mark.parametrize("width", [2, 4])
def test_a_size_is_kept_to(problems, width):
    limit = 3 * LAYER_OVERHEAD + 900 * width
    merged = merge_layers(problems, "sum", rank=RankPolicy("size", limit / 1e6), bytes_per_value=width)
    used = sum(
        LAYER_OVERHEAD + (layer.delta.up.numel() + layer.delta.down.numel()) * width for layer in merged.values()
    )
    assert limit - 2 * 56 * width < used <= limit  # what is left is less than a rank of each layer


def test_a_dense_result_is_cut_to_a_rank(problems, true):
    dense = replace(problems[0], deltas=[Dense(d.dense()) for d in problems[0].deltas])
    cut = merge_layers([dense], "sum", rank=RankPolicy.parse("5"))["layer.0"].delta
    oracle = merge_layers(problems[:1], "sum", rank=RankPolicy.parse("5"))["layer.0"].delta
    assert isinstance(cut, LowRank)
    assert (true(cut) - true(oracle)).norm() <= 1e-5 * true(oracle).norm()


def test_sum_to_a_file_is_exact(problems, true):
    merged = merge_layers(problems, "sum")
    for problem in problems:
        oracle = sum(true(delta) for delta in problem.deltas)
        assert (true(merged[problem.name].delta) - oracle).norm() <= 1e-6 * oracle.norm()


def test_cancelling_leaves_every_switch_as_it_was(problems):
    seen, state = [], torch.random.get_rng_state()
    before = (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.is_grad_enabled())

    def stop(name: str) -> None:
        seen.append(name)
        if len(seen) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        merge_layers(problems, "contrastive", on_layer=stop)
    assert seen == ["layer.0", "layer.1"]
    assert before == (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.is_grad_enabled())
    assert torch.equal(state, torch.random.get_rng_state())


def test_wrong_names_are_refused_before_any_work(problems):
    with pytest.raises(InputError):
        merge_layers(problems, "magic", on_layer=lambda _: pytest.fail("started"))
    with pytest.raises(InputError):
        merge_layers(problems, "sum", {"margin": 1}, on_layer=lambda _: pytest.fail("started"))


def test_unusable_features_are_named(problems):
    statistics = problems[0].statistics
    broken = SecondMoment(torch.full_like(statistics.concepts[0].total, float("nan")), 5.0)
    bad = replace(problems[0], statistics=replace(statistics, concepts=[broken, *statistics.concepts[1:]]))
    for method in ("gradient-fusion", "contrastive"):
        with pytest.raises(LoraclrError, match="NaN") as caught:
            merge_layers([bad], method)
        assert (caught.value.code, caught.value.key) == ("unusable-statistics", "layer.0")


def test_memory_of_a_device_falls_back_to_the_cpu():
    def step(device: str) -> str:
        if device != "cpu":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return device

    def broken(_: str) -> str:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    assert on_device("cuda", step) == "cpu"
    with pytest.raises(RuntimeError, match="multiplied"):
        on_device("cuda", broken)


MEMORY = """
import resource, sys, torch
from collections.abc import Sequence
from lib_loraclr.core.deltas import LayerShape, LowRank
from lib_loraclr.core.merge import merge_layers
from lib_loraclr.core.moments import SecondMoment
from lib_loraclr.core.problem import LayerProblem, Statistics
torch.set_num_threads(1)
size = 1024
class Stored(Sequence):
    def __init__(self, count): self.count = count
    def __len__(self): return self.count
    def __getitem__(self, index):
        if index >= self.count: raise IndexError
        rows = torch.randn(64, size, generator=torch.Generator().manual_seed(index))
        return SecondMoment(rows.T @ rows, 64.0)
def peak(count):
    deltas = [LowRank(torch.randn(64, 4), torch.randn(4, size)) for _ in range(count)]
    merge_layers([LayerProblem("a", LayerShape(64, size), deltas, Statistics(Stored(count)))], "gradient-fusion")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
base = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() // 1024
few = peak(2); many = peak(12)
print(few - base, many - base)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_gradient_fusion_is_flat_in_the_number_of_loras():
    # A fixed threshold makes the allocator give freed blocks back, so that the peak is what was alive, not fragments.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", MEMORY]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    few, many = map(int, done.stdout.split())
    assert few > 10_000  # KiB: the measurement sees the Grams at all
    assert many <= 1.25 * few


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("method", list(METHODS))
def test_cuda_and_cpu_agree_whatever_the_tf32_switch_says(problems, true, method):
    before = torch.get_float32_matmul_precision()
    cpu = merge_layers(problems, method, rank=RankPolicy.parse("6"))
    try:
        for precision in ("highest", "medium"):
            torch.set_float32_matmul_precision(precision)
            gpu = merge_layers(problems, method, rank=RankPolicy.parse("6"), device="cuda")
            assert torch.get_float32_matmul_precision() == precision
            for name, layer in cpu.items():
                oracle = true(layer.delta)
                assert (true(gpu[name].delta) - oracle).norm() <= 1e-4 * oracle.norm()
    finally:
        torch.set_float32_matmul_precision(before)


def test_empty_selection_and_shapes_of_convolutions(world):
    assert merge_layers([], "sum") == {}
    problem = replace(world(size=27, out=8, rank=1).problem, shape=LayerShape(8, 3, (3, 3)))
    assert merge_layers([problem], "contrastive")["unet.layer"].delta.shape == (8, 27)
