"""The cache on disk: hits, misses, partial hits, damage, eviction, lifetime; packed matrices."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lib_loraclr.capture import CaptureSettings, Concept, TensorCache, capture
from lib_loraclr.capture.cache import digest_deltas
from lib_loraclr.capture.stored import StoredMoment, pack, unpack
from lib_loraclr.core.deltas import Dense, LowRank
from lib_loraclr.core.errors import InputError
from lib_loraclr.core.moments import SecondMoment
from lib_loraclr.formats.safetensors_io import SafetensorsFile, write_safetensors
from lib_loraclr.hosts.standalone import StandaloneHost

SETTINGS = CaptureSettings(
    steps=1, prompts=1, neutral_prompts=1, held_out_prompts=0, text_templates=("{c}",), sample_templates=("{c}",)
)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 33])
def test_packed_matrices_come_back(size: int) -> None:
    x = torch.randn(size + 2, size, generator=torch.Generator().manual_seed(size))
    full = x.T @ x
    full = (full + full.T) / 2
    packed = pack(full)
    assert packed.shape == (size * (size + 1) // 2,)
    assert torch.equal(unpack(packed, size), full)


def moment(value: float, size: int = 3) -> SecondMoment:
    return SecondMoment(torch.full((size, size), value), rows=2.0)


def test_stored_moments_behave_like_moments(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    stored = cache.store("k", {"a": moment(4.0), "b": moment(6.0)}, {"prompts": ["x"]})
    assert isinstance(stored["a"], SecondMoment)
    assert torch.equal(stored["a"].mean(), torch.full((3, 3), 2.0))
    both = stored["a"].plus(stored["b"])
    assert isinstance(both, StoredMoment)
    assert both.rows == 4.0
    assert torch.equal(both.mean(), torch.full((3, 3), 2.5))
    assert torch.equal(stored["a"].total, torch.full((3, 3), 4.0))  # the sum changed nothing
    mixed = stored["a"].plus(moment(1.0))
    assert torch.equal(mixed.total, torch.full((3, 3), 5.0))
    assert torch.equal(moment(1.0).plus(stored["a"]).total, torch.full((3, 3), 5.0))
    with pytest.raises(TypeError):
        stored["a"].add(torch.ones(1, 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_moments_are_kept_as_precise_as_they_were_captured(tmp_path: Path, dtype: torch.dtype) -> None:
    total = torch.full((3, 3), 1 / 3, dtype=dtype)
    kept = TensorCache(tmp_path).store("k", {"a": SecondMoment(total, 2.0), "0x1:a": SecondMoment(total, 2.0)}, {})
    assert all(kept[name].total.dtype == dtype and torch.equal(kept[name].total, total) for name in kept)


def test_a_file_of_another_precision_is_not_found(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    cache.store("k", {"a": moment(1.0)}, {})
    (path,) = tmp_path.glob("k-*.safetensors")
    file = SafetensorsFile.open(path)
    values = {"a": file.read("a").half()}
    path.unlink()
    write_safetensors(path, values, file.metadata)
    assert cache.find("k") == {}


def test_second_capture_needs_no_sampling(
    host: StandaloneHost, concepts: Sequence[Concept], counting: Any, tmp_path: Path
) -> None:
    first = capture(host, concepts, SETTINGS, cache=TensorCache(tmp_path))
    progress = counting()
    again = capture(host, concepts, SETTINGS, cache=TensorCache(tmp_path), progress=progress)
    assert (progress.steps, progress.announced) == (0, 0)
    for name, expected in first.items():
        assert torch.equal(expected.concepts[1].total, again[name].concepts[1].total)
        assert expected.concepts[1].rows == again[name].concepts[1].rows
    progress = counting()
    subset = capture(host, concepts[1:], SETTINGS, cache=TensorCache(tmp_path), progress=progress)
    assert progress.announced == 1  # one text run: the neutral prompts have one class word less
    assert torch.equal(next(iter(subset.values())).concepts[0].total, next(iter(first.values())).concepts[1].total)


def test_whatever_changes_the_numbers_changes_the_key(
    host: StandaloneHost, concepts: Sequence[Concept], counting: Any, tmp_path: Path
) -> None:
    cache = TensorCache(tmp_path)
    capture(host, concepts, SETTINGS, cache=cache)
    scaled = replace(concepts[0], deltas={name: delta.scaled(0.5) for name, delta in concepts[0].deltas.items()})
    renamed = replace(concepts[0], trigger="other")
    cases: list[tuple[Sequence[Concept], CaptureSettings, int]] = [
        (concepts, replace(SETTINGS, steps=2), 0),
        (concepts, replace(SETTINGS, seed=1), 0),
        (concepts, replace(SETTINGS, size=(64, 128)), 0),
        (concepts, replace(SETTINGS, padding_weight=1.0), 0),
        (concepts, SETTINGS, 1),
        ([scaled, concepts[1]], SETTINGS, 0),
        ([renamed, concepts[1]], SETTINGS, 0),
    ]
    for several, settings, number in cases:
        progress = counting()
        capture(host, several, settings, cache=cache, progress=progress, round=number)
        assert progress.steps > 0, (settings, number)


def test_more_layers_capture_only_what_is_missing(
    host: StandaloneHost, concepts: Sequence[Concept], counting: Any, tmp_path: Path
) -> None:
    text_only = [
        replace(c, deltas={n: d for n, d in c.deltas.items() if n.startswith("text_encoder")}) for c in concepts
    ]
    spatial = {n: d for n, d in concepts[0].deltas.items() if "attn1.to_q" in n}
    cache = TensorCache(tmp_path)
    capture(host, text_only, SETTINGS, cache=cache)
    progress = counting()
    # the second concept now touches UNet layers too: the first's text moments are reused, its spatial ones are new
    both = [text_only[0], replace(text_only[1], deltas={**text_only[1].deltas, **spatial})]
    found = capture(host, both, SETTINGS, cache=cache, progress=progress)
    assert set(found) == set(text_only[0].deltas) | set(spatial)
    fresh = counting()
    capture(host, both, SETTINGS, progress=fresh)
    assert 0 < progress.steps < fresh.steps


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other format"])
def test_damaged_entries_are_ignored_and_replaced(
    host: StandaloneHost, concepts: Sequence[Concept], counting: Any, tmp_path: Path, damage: str
) -> None:
    from safetensors.torch import save_file

    first = capture(host, concepts[:1], SETTINGS, cache=TensorCache(tmp_path))
    expected = {name: s.concepts[0].total.clone() for name, s in first.items()}
    for path in tmp_path.glob("*.safetensors"):
        content = path.read_bytes()
        path.unlink()
        if damage == "other format":
            save_file({"x": torch.zeros(1)}, path)
        else:
            path.write_bytes({"cut": content[:-40], "empty": b"", "text": b"hello, world, this is no header"}[damage])
    progress = counting()
    again = capture(host, concepts[:1], SETTINGS, cache=TensorCache(tmp_path), progress=progress)
    assert progress.steps > 0
    assert all(torch.equal(again[name].concepts[0].total, total) for name, total in expected.items())
    progress = counting()
    capture(host, concepts[:1], SETTINGS, cache=TensorCache(tmp_path), progress=progress)
    assert progress.steps == 0


def test_least_recently_used_entries_go_first(tmp_path: Path) -> None:
    size = 300  # packed: 176 KiB
    writer = TensorCache(tmp_path, limit_mib=None)
    for number, key in enumerate(("old", "middle", "new")):
        writer.store(key, {"a": moment(1.0, size)}, {})
        for path in tmp_path.glob(f"{key}-*"):
            os.utime(path, (1000 + number, 1000 + number))
    assert TensorCache(tmp_path, limit_mib=None).find("old")  # a hit makes it the most recent
    big = TensorCache(tmp_path, limit_mib=1)
    kept = big.store("big", {"a": moment(2.0, 510)}, {})  # 509 KiB: 1037 KiB in all, 13 over the limit
    names = {path.name.partition("-")[0] for path in tmp_path.glob("*.safetensors")}
    assert names == {"old", "new", "big"}
    huge = big.store("huge", {"a": moment(3.0, 700)}, {})  # does not fit beside "big", which is in use
    names = {path.name.partition("-")[0] for path in tmp_path.glob("*.safetensors")}
    assert names == {"big", "huge"}
    assert float(kept["a"].total[0, 0]) == 2.0
    assert float(huge["a"].total[0, 0]) == 3.0


def test_temporary_cache_lives_as_long_as_its_moments() -> None:
    cache = TensorCache.temporary()
    folder = cache.folder
    stored = cache.store("k", {"a": moment(4.0)}, {})
    del cache
    gc.collect()
    assert float(stored["a"].total[0, 0]) == 4.0
    assert folder.is_dir()
    del stored
    gc.collect()
    assert not folder.exists()


def test_open_entries_survive_a_cleaned_folder(tmp_path: Path) -> None:
    stored = TensorCache(tmp_path).store("k", {"a": moment(4.0)}, {})
    for path in tmp_path.iterdir():
        path.unlink()
    assert float(stored["a"].total[0, 0]) == 4.0


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be made") as caught:
        TensorCache(tmp_path / "file").store("k", {"a": moment(4.0)}, {})
    assert caught.value.code == "folder-missing"


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LORACLR_CACHE", str(tmp_path / "here"))
    assert TensorCache.default_folder() == tmp_path / "here"
    monkeypatch.delenv("LORACLR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert TensorCache.default_folder() == tmp_path / "sd-webui-loraclr"


def test_digest_of_deltas_is_of_numbers_and_names() -> None:
    one = LowRank(torch.ones(2, 1), torch.ones(1, 3))
    assert digest_deltas({"a": one, "b": one}) == digest_deltas({"b": one, "a": one})
    assert digest_deltas({"a": one}) != digest_deltas({"b": one})
    assert digest_deltas({"a": one}) != digest_deltas({"a": one.scaled(2)})
    assert digest_deltas({"a": one}) != digest_deltas({"a": Dense(one.dense())})
    half = LowRank(one.up.bfloat16(), one.down.bfloat16())
    assert digest_deltas({"a": half}) != digest_deltas({"a": one})


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {f"unet.{k}.up": torch.randn(5, 2, generator=generator) for k in range(2)}


def test_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    cache, given = TensorCache(tmp_path / "new"), tensors()
    assert cache.find_tensors("k", "factors") is None
    cache.store_tensors("k", "factors", given, {"layers": ["unet.0", "ü"]})
    found = TensorCache(tmp_path / "new").find_tensors("k", "factors")
    assert found is not None
    assert {name: value.tolist() for name, value in found[0].items()} == {n: v.tolist() for n, v in given.items()}
    assert found[1] == {"layers": ["unet.0", "ü"]}
    assert cache.find_tensors("other", "factors") is None
    assert cache.find_tensors("k", "exam") is None
    assert cache.find("k") == {}  # they are no moments


@pytest.mark.parametrize("damage", ["cut", "moments", "empty", "notes", "no notes"])
def test_damaged_tensors_are_not_found(tmp_path: Path, damage: str) -> None:
    cache = TensorCache(tmp_path)
    cache.store_tensors("k", "factors", tensors(), {})
    path = tmp_path / "k-factors.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-4])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
        about = {} if damage == "moments" else {"format": "loraclr-1-factors"}
        write_safetensors(path, tensors(), about | ({"notes": "{"} if damage == "notes" else {}))
    assert cache.find_tensors("k", "factors") is None


def test_tensors_are_evicted_like_moments(tmp_path: Path) -> None:
    TensorCache(tmp_path).store_tensors("old", "factors", tensors(), {})
    os.utime(tmp_path / "old-factors.safetensors", (1, 1))
    cache = TensorCache(tmp_path, limit_mib=0)
    cache.store_tensors("new", "factors", tensors(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["new-factors.safetensors"]
