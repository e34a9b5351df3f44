"""Pictures with LoRA tags: the tag's grammar, what a tag does, and what the PNG says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_loras import Recorder, options_for

from lib_loraclr.core.errors import Cancelled, InputError
from lib_loraclr.generation.generator import GenerateOptions, Painter, generate
from lib_loraclr.generation.prompt_tags import LoraTag, parse_tag, split_prompt
from lib_loraclr.hosts.standalone import load_checkpoint
from lib_loraclr.merging.pipeline import merge


def open_tiny(checkpoint: Path | None, device: str) -> Any:
    return load_checkpoint(checkpoint or Path(), device=device)


@pytest.mark.parametrize(
    ("inner", "file", "weight", "te_weight"),
    [
        ("name", "name", 1.0, 1.0),
        ("name:0.5", "name", 0.5, 0.5),
        ("name:0.5:0.8", "name", 0.8, 0.5),
        ("name:-1", "name", -1.0, -1.0),
        ("name:te=0.5:unet=0.8", "name", 0.8, 0.5),
        ("name:0.3:unet=0.8", "name", 0.8, 0.3),
        ("C:\\loras\\a.safetensors:0.5", "C:\\loras\\a.safetensors", 0.5, 0.5),
        ("C:\\loras\\a.safetensors", "C:\\loras\\a.safetensors", 1.0, 1.0),
    ],
)
def test_tags_follow_the_webui(inner: str, file: str, weight: float, te_weight: float) -> None:
    assert parse_tag(inner) == LoraTag(file, weight, te_weight)


def test_tags_leave_the_prompt() -> None:
    text, tags = split_prompt("a man <lora:a:1> in a <lora:b:0.5>forest <lora:a:1>")
    assert text == "a man in a forest"
    assert [tag.file for tag in tags] == ["a", "b", "a"]
    for wrong in ("<lora::1>", "<lora:a:1:2:3>"):
        with pytest.raises(InputError):
            split_prompt(wrong)


@pytest.fixture(scope="module")
def painter(tiny_sd1: Path, loras: list[Path]) -> Painter:
    return Painter(load_checkpoint(tiny_sd1), lora_dir=loras[0].parent)


def paint(painter: Painter, prompt: str, seeds: list[int] | None = None) -> torch.Tensor:
    with painter.host.ready():
        return painter.paint(prompt, seeds or [5], steps=3, cfg=2.0, size=(64, 64)).int()


def test_a_tag_acts_by_its_weight(painter: Painter) -> None:
    plain = paint(painter, "a man")
    assert plain.shape == (1, 64, 64, 3)
    assert torch.equal(paint(painter, "a man <lora:zor:0>"), plain)
    assert not torch.equal(paint(painter, "a man <lora:zor:1>"), plain)
    assert not torch.equal(paint(painter, "a man <lora:zor:1:0>"), paint(painter, "a man <lora:zor:0:1>"))
    both = paint(painter, "a man <lora:zor:0.5> <lora:zor:0.5>")
    assert (both - paint(painter, "a man <lora:zor:1>")).abs().max() <= 1
    assert torch.equal(paint(painter, "a man"), plain), "hooks stayed behind"


def test_a_sum_is_what_stacked_tags_are(painter: Painter, loras: list[Path], tmp_path: Path, cache: Path) -> None:
    out = tmp_path / "sum.safetensors"
    options = options_for(loras, out, None, cache, quick=False, method="sum", dtype="fp32")
    merge(options, open_host=open_tiny, progress=Recorder())
    stacked = paint(painter, "a man <lora:zor:1> <lora:kib:1> <lora:vex:1>", [1, 2])
    assert (paint(painter, f"a man <lora:{out}:1>", [1, 2]) - stacked).abs().max() <= 1


def test_side_by_side_is_as_one_by_one(painter: Painter) -> None:
    together = paint(painter, "a man <lora:kib:1>", [3, 4])
    alone = [paint(painter, "a man <lora:kib:1>", [seed])[0] for seed in (3, 4)]
    assert all((one - other).abs().max() <= 1 for one, other in zip(together, alone, strict=True))
    with pytest.raises(InputError), painter.host.ready():
        painter.paint(["a <lora:kib:1>", "b"], [1, 2])


def test_pictures_tell_how_they_were_made(tiny_sd1: Path, loras: list[Path], tmp_path: Path) -> None:
    options = GenerateOptions(
        prompt="a man <lora:zor:0.7>", out=tmp_path / "p.png", checkpoint=tiny_sd1, negative="ugly, bad", seed=41,
        steps=2, cfg=3.0, size=(64, 32), count=2, grid=True, lora_dir=loras[0].parent, device="cpu",
    )  # fmt: skip
    outcome = generate(options, open_host=open_tiny, progress=Recorder())
    assert [path.name for path in outcome.files] == ["p-1.png", "p-2.png", "p-grid.png"]
    assert outcome.as_json()["out"] == str(tmp_path / "p-grid.png")
    with Image.open(tmp_path / "p-2.png") as picture:
        assert picture.size == (64, 32)
        lines = picture.text["parameters"].split("\n")  # pyright: ignore[reportAttributeAccessIssue]
        assert lines[:2] == ["a man <lora:zor:0.7>", "Negative prompt: ugly, bad"]
        assert lines[2].startswith("Steps: 2, Sampler: DDIM, CFG scale: 3, Seed: 42, Size: 64x32, Model hash: ")
        second = np.asarray(picture)
    with Image.open(tmp_path / "p-1.png") as picture:
        assert not np.array_equal(np.asarray(picture), second)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="exists"):
        generate(options, open_host=open_tiny, progress=Recorder())
    again = replace(options, overwrite=True)
    with pytest.raises(Cancelled):
        generate(again, open_host=open_tiny, progress=Recorder(cancel_in="Generating pictures: 1 to 2 of 2"))
    generate(again, open_host=open_tiny, progress=Recorder())
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"size": (63, 64)}, "bad-option"),
        ({"count": 0}, "bad-option"),
        ({"steps": 0}, "bad-option"),
        ({"prompt": "a <lora:nobody:1>"}, "file-not-found"),
        ({"out": Path("p.jpg")}, "bad-output-name"),
        ({"out": Path("/nowhere/at/all/p.png")}, "folder-missing"),
    ],
)
def test_what_cannot_be_painted(change: dict[str, Any], code: str, tmp_path: Path) -> None:
    options = GenerateOptions(prompt="a", out=tmp_path / "p.png", device="cpu")
    with pytest.raises(InputError) as caught:
        generate(replace(options, **change), open_host=lambda *_: pytest.fail("opened"), progress=Recorder())
    assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []
