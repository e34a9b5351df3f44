"""The writer: what is in the file, that it is safe on disk, and that it says so when it cannot be."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from lib_loraclr.core.deltas import Delta, Dense, LayerShape, LowRank
from lib_loraclr.core.errors import InputError, LoraclrError
from lib_loraclr.formats import WrittenFile, atomic_path, check_output, read_lora, write_lora
from lib_loraclr.formats.low_rank import exact_factors
from lib_loraclr.formats.writer import balanced

LINEAR = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
CONV = "unet.down_blocks.0.resnets.0.conv1"
TEXT = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
SHAPES = {LINEAR: LayerShape(48, 40), CONV: LayerShape(32, 6, (3, 3)), TEXT: LayerShape(24, 20)}


def deltas(seed: int = 0) -> dict[str, Delta]:
    generator = torch.Generator().manual_seed(seed)

    def factors(shape: LayerShape, rank: int) -> LowRank:
        up = torch.randn(shape.out_features, rank, generator=generator)
        return LowRank(up, torch.randn(rank, shape.in_features, generator=generator) * 1e-3)

    return {LINEAR: factors(SHAPES[LINEAR], 4), CONV: factors(SHAPES[CONV], 3), TEXT: factors(SHAPES[TEXT], 2)}


def write(path: Path, layers: dict[str, Delta] | None = None, **options: Any) -> WrittenFile:
    given = {"family": "sd1", "dtype": "fp32", "metadata": {"ss_output_name": "x"}} | options
    return write_lora(path, deltas() if layers is None else layers, SHAPES, **given)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("fp32", 1e-6), ("fp16", 1e-3), ("bf16", 1e-2), (torch.float16, 1e-3)]
)
def test_written_deltas_come_back(dtype: str | torch.dtype, tolerance: float, tmp_path: Path) -> None:
    written = write(tmp_path / "m.safetensors", dtype=dtype)
    file = read_lora(written.path)
    assert file.layers.keys() == SHAPES.keys()
    for name, delta in deltas().items():
        expected, found = delta.dense(), file.layers[name].delta().dense()
        assert float((found - expected).norm() / expected.norm()) < tolerance
        file.layers[name].check_fits(SHAPES[name])
    assert not file.warnings
    assert written.tensors == 9
    assert written.bytes == written.path.stat().st_size


def test_keys_shapes_and_alpha_are_kohyas(tmp_path: Path) -> None:
    tensors = load_file(write(tmp_path / "m.safetensors", dtype="fp16").path)
    found = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in tensors.items()}
    linear, conv = (
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k",
        "lora_unet_down_blocks_0_resnets_0_conv1",
    )
    text = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    half = torch.float16
    assert found == {
        f"{linear}.lora_up.weight": ((48, 4), half), f"{linear}.lora_down.weight": ((4, 40), half),
        f"{linear}.alpha": ((), half),
        f"{conv}.lora_up.weight": ((32, 3, 1, 1), half), f"{conv}.lora_down.weight": ((3, 6, 3, 3), half),
        f"{conv}.alpha": ((), half),
        f"{text}.lora_up.weight": ((24, 2), half), f"{text}.lora_down.weight": ((2, 20), half),
        f"{text}.alpha": ((), half),
    }  # fmt: skip
    assert [float(tensors[f"{key}.alpha"]) for key in (linear, conv, text)] == [4, 3, 2]


def test_dense_of_low_rank_becomes_factors_and_of_full_rank_diff(tmp_path: Path) -> None:
    torch.manual_seed(0)
    low, full = torch.randn(48, 5) @ torch.randn(5, 40), torch.randn(32, 54)
    layers: dict[str, Delta] = {LINEAR: Dense(low), CONV: Dense(full), TEXT: Dense(torch.zeros(24, 20))}
    file = read_lora(write(tmp_path / "m.safetensors", layers).path)
    assert {name: (update.kind, update.rank) for name, update in file.layers.items()} == {
        LINEAR: ("lora", 5),
        CONV: ("full", None),
    }
    assert float((file.layers[LINEAR].delta().dense() - low).norm() / low.norm()) < 2e-6
    assert torch.equal(file.layers[CONV].delta().dense(), full)


def test_vectors_are_written_as_hosts_take_them(tmp_path: Path) -> None:
    norm = "unet.down_blocks.0.resnets.0.norm1"
    vectors = {
        f"{norm}.weight": torch.tensor([1.0, 2.0]),
        f"{CONV}.bias": torch.ones(32),
        f"{LINEAR}.bias": torch.ones(48),
    }
    written = write(tmp_path / "m.safetensors", {LINEAR: deltas()[LINEAR]}, vectors=vectors)
    tensors = load_file(written.path)
    flat = "lora_unet_down_blocks_0_resnets_0_"
    assert tensors[f"{flat}norm1.b_norm"].tolist() == [0, 0]
    assert tensors[f"{flat}conv1.diff"].shape == (32, 6, 3, 3)
    file = read_lora(written.path)
    assert file.vectors.pop(f"{norm}.bias").tolist() == [0, 0]
    assert file.vectors.keys() == vectors.keys()
    assert all(torch.equal(file.vectors[name], vector) for name, vector in vectors.items())


def test_balancing_is_exact_and_saves_half_precision(tmp_path: Path) -> None:
    up, down = torch.randn(8, 3) * 3e4, torch.randn(3, 8) * 1e-9
    up[:, 2] = 0.0
    found = balanced(LowRank(up, down))
    assert torch.equal((found[0].double() @ found[1].double()), up.double() @ down.double())
    assert 0.1 < float(found[0][:, :2].abs().max() / found[1][:2].abs().max()) < 10
    shape = {LINEAR: LayerShape(8, 8)}
    write_lora(tmp_path / "m.safetensors", {LINEAR: LowRank(up, down)}, shape, family="sd1", dtype="fp16", metadata={})
    back = read_lora(tmp_path / "m.safetensors").layers[LINEAR].delta().dense()
    assert float((back - up @ down).norm() / (up @ down).norm()) < 1e-3


def test_ranks_that_bfloat16_cannot_hold(tmp_path: Path) -> None:
    torch.manual_seed(0)
    delta = LowRank(torch.randn(48, 257), torch.randn(257, 40))
    update = read_lora(write(tmp_path / "m.safetensors", {LINEAR: delta}, dtype="bf16").path).layers[LINEAR]
    ratio = (update.delta().dense() * delta.dense()).sum() / delta.dense().square().sum()
    assert float(load_file(tmp_path / "m.safetensors")[f"{update.keys[0].split('.')[0]}.alpha"]) != 257
    assert abs(float(ratio) - 1) < 1e-3


@pytest.mark.parametrize("rank", [1, 7, 100])
def test_rank_is_found_in_single_precision_noise(rank: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(700, rank) * torch.logspace(0, -3, rank) @ torch.randn(rank, 500)
    found = exact_factors(weight)
    assert found is not None
    assert found.rank == rank
    assert float((found.dense() - weight).norm() / weight.norm()) < 1e-6
    assert exact_factors(weight + 1e-5 * torch.randn(700, 500)) is None


# Hashes, metadata, bytes --------------------------------------------------------------------------------------------


def test_two_runs_are_byte_identical_and_metadata_does_not_change_the_hash(tmp_path: Path) -> None:
    metadata = {str(i): "x" for i in range(50)}
    first, second = (write(tmp_path / f"{i}.safetensors", metadata=metadata) for i in "ab")
    reordered = dict(reversed(metadata.items()))
    third = write(tmp_path / "c.safetensors", dict(reversed(deltas().items())), metadata=reordered)
    assert first.path.read_bytes() == second.path.read_bytes() == third.path.read_bytes()
    other = write(tmp_path / "d.safetensors", metadata={})
    assert other.sha256 == first.sha256
    assert write(tmp_path / "e.safetensors", deltas(1)).sha256 != first.sha256


def test_hashes_are_those_that_hosts_compute(tmp_path: Path) -> None:
    big = {LINEAR: LowRank(torch.randn(5000, 50), torch.randn(50, 5000))}
    shapes = {LINEAR: LayerShape(5000, 5000)}
    written = write_lora(tmp_path / "m.safetensors", big, shapes, family="sd1", dtype="fp32", metadata={"a": "b"})
    data = written.path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    expected = hashlib.sha256(data[begin:]).hexdigest()
    with safe_open(written.path, "pt") as file:
        metadata = file.metadata()
    assert metadata["sshs_model_hash"] == written.sha256 == read_lora(written.path).sha256 == expected
    assert metadata["modelspec.hash_sha256"] == f"0x{expected}"
    # the legacy hash is taken of the file as it is before the hashes are put into its header (sd-scripts)
    header = json.loads(data[8:begin])
    for key in ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256"):
        del header["__metadata__"][key]
    raw = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    before = len(raw).to_bytes(8, "little") + raw + data[begin:]
    assert metadata["sshs_legacy_hash"] == hashlib.sha256(before[0x100000:0x110000]).hexdigest()[:8]
    assert len(before) > 0x110000
    assert data[8:10] == b'{"'


def test_network_dimensions_are_the_written_ones(tmp_path: Path) -> None:
    with safe_open(write(tmp_path / "a.safetensors").path, "pt") as file:
        mixed = file.metadata()
    with safe_open(write(tmp_path / "b.safetensors", {LINEAR: deltas()[LINEAR]}).path, "pt") as file:
        equal = file.metadata()
    assert (mixed["ss_network_dim"], mixed["ss_network_alpha"]) == ("Dynamic", "Dynamic")
    assert (equal["ss_network_dim"], equal["ss_network_alpha"]) == ("4", "4.0")
    assert equal["ss_output_name"] == "x"


# On disk ------------------------------------------------------------------------------------------------------------


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_output_exists(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_text("mine")
    with pytest.raises(InputError, match="exists already") as caught:
        write(path)
    assert (caught.value.code, caught.value.file) == ("output-exists", str(path))
    assert path.read_text() == "mine"
    write(path, overwrite=True)
    assert len(read_lora(path).layers) == 3
    assert left_behind(tmp_path) == ["m.safetensors"]


def test_output_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.txt"

    def race() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("ours")
            path.write_text("somebody else's")

    with pytest.raises(InputError, match="exists already"):
        race()
    assert path.read_text() == "somebody else's"
    assert left_behind(tmp_path) == ["m.txt"]


def test_folder_missing_or_output_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist") as caught:
        write(tmp_path / "no" / "m.safetensors")
    assert caught.value.code == "folder-missing"
    with pytest.raises(InputError, match="is a folder"):
        write(tmp_path, overwrite=True)
    assert left_behind(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs another user")
def test_folder_read_only(tmp_path: Path) -> None:
    """In a child process without the privileges that would ignore the folder's mode."""
    (tmp_path / "there").mkdir(mode=0o555)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            for folder in (tmp_path, *tmp_path.parents[:2]):
                if os.geteuid() == 0:
                    folder.chmod(0o755)
            if os.geteuid() == 0:
                os.setuid(65534)
            check_output(tmp_path / "there" / "m.safetensors", overwrite=False)
            os.write(writer, b"accepted")
        except BaseException as error:
            os.write(writer, f"{getattr(error, 'code', '')} {error}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    answer = os.read(reader, 1000).decode()
    os.close(reader)
    os.close(writer)
    assert answer.startswith("folder-read-only The output folder")
    assert answer.endswith("is read-only.")


def test_disk_full(tmp_path: Path) -> None:
    """With a limit on the size of files, which makes writes fail part-way, as a full disk does."""
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, old[1]))
    try:
        with pytest.raises(InputError, match="disk is full") as caught:
            write(tmp_path / "m.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.code == "disk-full"
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("fault", "raised"),
    [(OSError(errno.ENOSPC, "No space left on device"), InputError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_failure_at_the_last_moment_leaves_nothing(
    fault: BaseException, raised: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise fault

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(raised):
        write(tmp_path / "m.safetensors")
    monkeypatch.undo()
    assert left_behind(tmp_path) == []


def test_values_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    huge = LowRank(torch.full((48, 1), 1e6), torch.full((1, 40), 1e6))
    with pytest.raises(LoraclrError, match="does not fit") as caught:
        write(tmp_path / "m.safetensors", {LINEAR: huge}, dtype="fp16")
    assert caught.value.code == "overflow"
    assert caught.value.key
    assert caught.value.key.endswith("attn2_to_k.lora_up.weight")
    write(tmp_path / "m.safetensors", {LINEAR: huge}, dtype="fp32")
    with pytest.raises(InputError, match="changes no layer"):
        write(tmp_path / "n.safetensors", {})
    assert left_behind(tmp_path) == ["m.safetensors"]


def test_a_layer_without_a_key_is_an_error(tmp_path: Path) -> None:
    layers: dict[str, Tensor] = {"unet.nonsense": torch.ones(2, 2)}
    given = {name: Dense(tensor) for name, tensor in layers.items()}
    shapes = {"unet.nonsense": LayerShape(2, 2)}
    with pytest.raises(LoraclrError, match="no key"):
        write_lora(tmp_path / "m.safetensors", given, shapes, family="sdxl", dtype="fp16", metadata={})
