"""Every bad LoRA file gets one clear sentence that names the file and, where there is one, the key."""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from lib_loraclr.core.deltas import LayerShape
from lib_loraclr.core.errors import InputError
from lib_loraclr.formats import read_lora
from lib_loraclr.formats.inspect import inspect
from lib_loraclr.formats.keys.tensor_keys import split_tensor_key
from lib_loraclr.formats.readers import read_update
from lib_loraclr.formats.readers.parts import MemorySource, Parts

Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
Q_LDM = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"


def good(**changes: Tensor | None) -> dict[str, Tensor]:
    tensors: dict[str, Tensor | None] = {
        f"{Q}.lora_up.weight": torch.ones(4, 2),
        f"{Q}.lora_down.weight": torch.ones(2, 4),
        f"{Q}.alpha": torch.tensor(2.0),
    }
    tensors |= {f"{Q}.{part.replace('__', '.')}": tensor for part, tensor in changes.items()}
    return {key: tensor for key, tensor in tensors.items() if tensor is not None}


def header(content: object, data: bytes = b"", length: int | None = None) -> bytes:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def stored(tensors: dict[str, Tensor]) -> Callable[[Path], None]:
    return lambda path: save_file(tensors, path)


def raw(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def cut(path: Path) -> None:
    save_file(good(), path)
    path.write_bytes(path.read_bytes()[:-8])


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data.pkl", "x")


NAN, INF = torch.full((4, 2), float("nan")), torch.full((2, 4), float("inf")).half()
FLUX = "lora_unet_double_blocks_0_img_attn_qkv"

# name: (how the file comes about, code, words of the sentence, key or None)
CASES: dict[str, tuple[Callable[[Path], object], str, str, str | None]] = {
    "zero bytes": (raw(b""), "empty-file", "is empty", None),
    "five bytes": (raw(b"hello"), "truncated", "too short", None),
    "text": (raw(b"<html><body>404 not found</body>"), "not-safetensors", "not a safetensors file", None),
    "pickle": (raw(pickle.dumps({"a": [1, 2, 3] * 9}, protocol=2)), "pickle", "is a pickle", None),
    "pickle 4": (raw(pickle.dumps({"a": [1, 2, 3] * 9}, protocol=4)), "pickle", "is a pickle", None),
    "torch zip": (zipped, "pickle", "is a pickle", None),
    "header longer than file": (raw(header({}, length=999)), "truncated", "header should be 999 bytes", None),
    "data cut off": (cut, "truncated", "is truncated", f"{Q}.lora_up.weight"),
    "header not JSON": (raw(header(b"{not json at all}")), "not-safetensors", "not valid JSON", None),
    "header not UTF-8": (raw(header(b'{"\xff\xfe": 1}  ')), "not-safetensors", "not valid JSON", None),
    "no tensors": (raw(header({"__metadata__": {"a": "b"}})), "no-layers", "holds no tensors", None),
    "metadata not text": (raw(header({"__metadata__": {"n": 3}})), "bad-metadata", "'n' is of type int", "n"),
    "metadata a list": (raw(header({"__metadata__": ["n"]})), "bad-metadata", "not a JSON object", None),
    "entry without shape": (raw(header({"a": {"dtype": "F32"}})), "bad-offsets", "'a'", "a"),
    "negative offset": (raw(header({"a": entry([1], -4, 0)}, bytes(4))), "bad-offsets", "'a'", "a"),
    "size is not shape": (raw(header({"a": entry([3], 0, 8)}, bytes(8))), "bad-offsets", "[3]", "a"),
    "overlap": (
        raw(header({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12))), "bad-offsets", "overlaps", "b"),
    "gap": (raw(header({"a": entry([1], 4, 8)}, bytes(8))), "bad-offsets", "gap", "a"),
    "unknown dtype": (raw(header({"a": entry([1], 0, 4, "F4")}, bytes(4))), "bad-dtype", "F4", "a"),
    "NaN": (stored(good(lora_up__weight=NAN)), "not-finite", "holds NaN", f"{Q}.lora_up.weight"),
    "Inf": (stored(good(lora_down__weight=INF)), "not-finite", "infinite", f"{Q}.lora_down.weight"),
    "up without down": (
        stored(good(lora_down__weight=None)), "incomplete-layer", "without 'lora_down'", f"{Q}.lora_up.weight"),
    "down without up": (
        stored(good(lora_up__weight=None)), "incomplete-layer", "without 'lora_up'", f"{Q}.lora_down.weight"),
    "rank mismatch": (
        stored(good(lora_down__weight=torch.ones(3, 4))), "rank-mismatch", "[4, 2]", f"{Q}.lora_down.weight"),
    "mid rank mismatch": (
        stored(good(lora_mid__weight=torch.ones(3, 2, 3, 3))), "rank-mismatch", "[3, 2, 3, 3]", f"{Q}.lora_mid.weight"),
    "factor is a vector": (
        stored(good(lora_up__weight=torch.ones(4))), "bad-shape", "not a matrix", f"{Q}.lora_up.weight"),
    "up is no 1x1": (
        stored(good(lora_up__weight=torch.ones(4, 2, 3, 3))), "bad-shape", "not a 1x1", f"{Q}.lora_up.weight"),
    "alpha is a matrix": (stored(good(alpha=torch.ones(2, 2))), "bad-shape", "should be one number", f"{Q}.alpha"),
    "dora of another width": (stored(good(dora_scale=torch.ones(5, 1))), "bad-shape", "4 outputs", f"{Q}.dora_scale"),
    "dora with two axes": (stored(good(dora_scale=torch.ones(4, 4))), "bad-shape", "no axis", f"{Q}.dora_scale"),
    "loha without a half": (
        stored({f"{Q}.hada_w1_a": torch.ones(4, 2), f"{Q}.hada_w1_b": torch.ones(2, 4)}),
        "incomplete-layer", "without 'hada_w2_a'", f"{Q}.hada_w1_a"),
    "loha halves differ": (
        stored({f"{Q}.hada_w1_a": torch.ones(4, 2), f"{Q}.hada_w1_b": torch.ones(2, 4),
                f"{Q}.hada_w2_a": torch.ones(5, 2), f"{Q}.hada_w2_b": torch.ones(2, 4)}),
        "size-mismatch", "(4, 4) and (5, 4)", f"{Q}.hada_w2_a"),
    "lokr without a half": (
        stored({f"{Q}.lokr_w1": torch.ones(2, 2)}), "incomplete-layer", "without 'lokr_w2_a'", f"{Q}.lokr_w1"),
    "lokr as a vector": (
        stored({f"{Q}.lokr_w1": torch.ones(2), f"{Q}.lokr_w2": torch.ones(2, 2)}),
        "bad-shape", "not a tensor of 2 axes", f"{Q}.lokr_w1"),
    "oft not square": (stored({f"{Q}.oft_blocks": torch.ones(2, 2, 3)}), "bad-shape", "square", f"{Q}.oft_blocks"),
    "ia3 without weight": (
        stored({f"{Q}.on_input": torch.tensor(0)}), "incomplete-layer", "without 'weight'", f"{Q}.on_input"),
    "glora without a factor": (
        stored({f"{Q}.{n}.weight": torch.ones(2, 2) for n in ("a1", "a2", "b1")}),
        "incomplete-layer", "without 'b2'", f"{Q}.a1.weight"),
    "layer twice": (
        stored({**good(), f"{Q_LDM}.lora_up.weight": torch.ones(4, 2), f"{Q_LDM}.lora_down.weight": torch.ones(2, 4)}),
        "duplicate-layer", "twice", f"{Q_LDM}.lora_down.weight"),
    "Flux": (
        stored({f"{FLUX}.lora_up.weight": torch.ones(4, 2), f"{FLUX}.lora_down.weight": torch.ones(2, 4)}),
        "unsupported-family", "a LoRA for FLUX", f"{FLUX}.lora_down.weight"),
    "checkpoint": (
        stored({"model.diffusion_model.out.0.weight": torch.ones(4)}), "not-a-lora", "a checkpoint, not a LoRA", None),
    "other tensors": (stored({"foo.bar": torch.ones(4)}), "no-layers", "'foo.bar'", "foo.bar"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_clear_sentence(case: str, tmp_path: Path) -> None:
    make, code, words, key = CASES[case]
    path = tmp_path / "bad lora.safetensors"
    make(path)
    with pytest.raises(InputError) as caught:
        read_lora(path)
    error = caught.value
    assert error.code == code
    assert words in error.message
    assert "bad lora.safetensors" in error.message
    assert error.message.endswith(".")
    assert "\n" not in error.message
    assert (error.file, error.key) == (str(path), key)
    assert error.exit_status == 2


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist") as caught:
        read_lora(tmp_path / "no.safetensors")
    assert caught.value.code == "file-not-found"
    with pytest.raises(InputError, match="is a folder") as caught:
        read_lora(tmp_path)
    assert caught.value.code == "not-a-file"
    with pytest.raises(InputError, match="does not exist"):
        read_lora(tmp_path / "no.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        read_lora(tmp_path / "empty.pth")


def test_another_models_lora(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(good(), path)
    with pytest.raises(InputError, match="the checkpoint has none of its layers") as caught:
        read_lora(path, layers=["unet.mid_block.attentions.0.proj_in"])
    assert (caught.value.code, caught.value.key) == ("no-layer-fits", f"{Q}.alpha")


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(good(), path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    padded = data[8 : 8 + length] + b" " * (0x0280 - length)
    path.write_bytes(len(padded).to_bytes(8, "little") + padded + data[8 + length :])
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert len(read_lora(path).layers) == 1


def test_a_file_replaced_while_in_use_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(good(), path)
    (update,) = read_lora(path).layers.values()
    save_file(good(lora_up__weight=torch.zeros(4, 2)), path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputError, match=r"a\.safetensors was changed while it was in use"):
        update.delta()


def test_no_handle_stays_open(tmp_path: Path) -> None:
    fds = Path("/proc/self/fd")
    if not fds.is_dir():
        pytest.skip("needs /proc")
    path = tmp_path / "a.safetensors"
    save_file(good(), path)
    before = len(list(fds.iterdir()))
    file = read_lora(path)
    deltas = [update.delta() for update in file.layers.values()]
    assert len(list(fds.iterdir())) == before
    assert str(path) not in Path("/proc/self/maps").read_text()
    assert len(deltas) == 1


def test_inspect_tells_what_is_wrong_instead_of_raising(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"")
    inspection = inspect(path).as_dict()
    assert inspection["ok"] is False
    assert inspection["error"] == {
        "code": "empty-file", "message": "bad.safetensors is empty (0 bytes).", "file": str(path), "key": None
    }  # fmt: skip


BASE = torch.ones(2, 2)
USUAL: list[tuple[int, ...]] = [(), (1,), (2,), (2, 1), (1, 2), (2, 2), (2, 2, 1, 1), (1, 1, 1, 1), (1, 2, 2), (1, 1)]
SHAPES = st.one_of(st.sampled_from(USUAL), st.lists(st.sampled_from([0, 1, 2, 3]), max_size=4).map(tuple))
PARTS = """
    lora_up.weight lora_down.weight lora_mid.weight lora_magnitude_vector dora_scale alpha scale
    hada_w1_a hada_w1_b hada_w2_a hada_w2_b hada_t1 hada_t2
    lokr_w1 lokr_w1_a lokr_w1_b lokr_w2 lokr_w2_a lokr_w2_b lokr_t2
    oft_blocks oft_diag rescale weight on_input a1.weight a2.weight b1.weight b2.weight diff diff_b w_norm b_norm
"""


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(family=st.sampled_from(["lora", "hada", "lokr", "oft", "", "1", "2"]), data=st.data())
def test_no_shapes_lead_to_anything_but_a_sentence(family: str, data: st.DataObject) -> None:
    names = [
        part
        for part in re.findall(r"\S+", PARTS)
        if family in part or part in ("alpha", "dora_scale", "rescale", "on_input")
    ]
    chosen = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=8, unique=True))
    tensors = {f"{Q}.{part}": torch.ones(data.draw(SHAPES)) for part in chosen}
    source = MemorySource(Path("x.safetensors"), tensors)
    split = {key: split_tensor_key(key) for key in tensors}
    keys = {found[1]: key for key, found in split.items() if found}
    error = _error_of(Parts(source, Q, keys))
    assert error is None or (error.key and error.message.endswith("."))


def _error_of(parts: Parts) -> InputError | None:
    try:
        update = read_update(parts)
        if update:
            update.check_fits(LayerShape(2, 2))
            assert update.delta(BASE).dense().shape == (2, 2)
    except InputError as error:
        return error
    return None
