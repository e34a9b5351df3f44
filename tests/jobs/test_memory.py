"""A merge whose memory is not enough: smaller passes, then the CPU, then a clear end; and the model as before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_loras import QUICK, Recorder, options_for

from lib_loraclr.capture import run as capture_run
from lib_loraclr.core import merge as core_merge
from lib_loraclr.core.errors import out_of_memory
from lib_loraclr.core.moments import SecondMoment
from lib_loraclr.hosts.standalone import load_checkpoint
from lib_loraclr.merging.pipeline import merge

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"


@pytest.fixture
def host(tiny_sd1: Path) -> Any:
    return load_checkpoint(tiny_sd1, device="cpu")


@contextmanager
def crowded(monkeypatch: pytest.MonkeyPatch, layers: int, pictures: int) -> Iterator[list[tuple[int, int]]]:
    """A device on which moments of more than `layers` layers, or more than `pictures` at a time, do not fit."""
    passes: list[tuple[int, int]] = []
    zeros = SecondMoment.zeros.__func__
    gather = capture_run.gather
    held: list[int] = []

    def limited(cls: type[SecondMoment], *given: Any, **named: Any) -> SecondMoment:
        held.append(1)
        if len(held) > layers:
            raise RuntimeError(FULL)
        return zeros(cls, *given, **named)

    def one_pass(host: Any, run: Any, group: Any, settings: Any, progress: Any = None) -> Any:
        held.clear()
        passes.append((len(group), settings.batch))
        if run.sampled and min(settings.batch, len(run.prompts)) > pictures:
            raise RuntimeError(FULL)
        return gather(host, run, group, settings, progress)

    with monkeypatch.context() as patched:
        patched.setattr(SecondMoment, "zeros", classmethod(limited))
        patched.setattr(capture_run, "gather", one_pass)
        yield passes


def untouched(host: Any) -> bool:
    return not any(m._forward_hooks or m._forward_pre_hooks for m in host.layers().values())


def test_a_capture_that_does_not_fit_goes_on_in_smaller_passes(
    host: Any, loras: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    option = {**QUICK, "prompts": 2}
    plain = merge(
        options_for(loras, tmp_path / "a.safetensors", None, tmp_path / "c1", option=option, dtype="fp32"),
        open_host=lambda *_: host, progress=Recorder(),
    )  # fmt: skip
    assert not [note for note in plain.warnings if note.code.startswith("memory")]
    with crowded(monkeypatch, layers=1, pictures=1) as passes:
        small = merge(
            options_for(loras, tmp_path / "b.safetensors", None, tmp_path / "c2", option=option, dtype="fp32"),
            open_host=lambda *_: host, progress=Recorder(),
        )  # fmt: skip
    notes = [note for note in small.warnings if note.code == "memory-passes"]
    assert len(notes) == 1
    assert "watched" in notes[0].message
    assert max(layers for layers, _ in passes) > 1
    assert passes[-3:] == [(1, 1)] * 3  # learned once, also for the rounds
    assert [c.kept for c in small.concepts] == pytest.approx([c.kept for c in plain.concepts], abs=1e-3)
    assert untouched(host)


def test_a_device_that_cannot_hold_one_layer_ends_the_merge_as_if_it_had_not_begun(
    host: Any, loras: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {name: module.weight.clone() for name, module in host.layers().items()}
    out = tmp_path / "out" / "m.safetensors"
    out.parent.mkdir()
    options = options_for(loras, out, None, tmp_path / "cache", option=QUICK)
    with crowded(monkeypatch, layers=0, pictures=0), pytest.raises(RuntimeError, match="out of memory") as caught:
        merge(options, open_host=lambda *_: host, progress=Recorder())
    assert out_of_memory(caught.value)
    assert list(out.parent.iterdir()) == []
    assert untouched(host)
    assert all(torch.equal(weights[name], module.weight) for name, module in host.layers().items())


def test_layers_that_the_device_cannot_solve_are_solved_by_the_cpu(
    host: Any, loras: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solve = core_merge._solve

    def full(problem: Any, *given: Any) -> Any:
        if given[-1] != "cpu" and problem.name.startswith("text_encoder"):
            raise RuntimeError(FULL)
        return solve(problem, *given[:-1], "cpu")

    finish = core_merge._finish
    monkeypatch.setattr(core_merge, "_solve", full)
    monkeypatch.setattr(core_merge, "_finish", lambda *given: finish(*given[:-1], "cpu"))
    merge_layers = core_merge.merge_layers
    monkeypatch.setattr(
        "lib_loraclr.merging.solve.merge_layers",
        lambda *given, **named: merge_layers(*given, **{**named, "device": "cuda"}),
    )
    options = options_for(loras, tmp_path / "m.safetensors", None, tmp_path / "cache", option=QUICK)
    outcome = merge(options, open_host=lambda *_: host, progress=Recorder())
    notes = [note for note in outcome.warnings if note.code == "memory-cpu"]
    assert len(notes) == 1
    assert "the CPU solved them" in notes[0].message
    assert notes[0].key is not None
    assert notes[0].key.startswith("text_encoder")


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (MemoryError(), True), (RuntimeError(FULL), True), (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False), (ValueError("out of memory"), False),
    ],
)  # fmt: skip
def test_what_counts_as_memory_that_was_not_enough(error: Exception, full: bool) -> None:
    assert out_of_memory(error) is full


def test_the_cpu_s_own_allocator_says_so() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62 - 1, dtype=torch.uint8)
    assert out_of_memory(caught.value)
