"""Pictures with LoRA tags: the tag's grammar, what a tag does, and what the PNG says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_loras import Recorder, options_for

from lib_loraclr.core.errors import Cancelled, InputError
from lib_loraclr.formats import read_lora
from lib_loraclr.formats.weighted import host_shapes, weighted_deltas
from lib_loraclr.generation.generator import ImageGenerator, LoraTag, SamplingParams, parse_tag, split_prompt
from lib_loraclr.generation.job import GenerateOptions, generate
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
def generator(tiny_sd1: Path, loras: list[Path]) -> ImageGenerator:
    return ImageGenerator(load_checkpoint(tiny_sd1), lora_dir=loras[0].parent)


def pictures(generator: ImageGenerator, prompt: str, seeds: Sequence[int] = (5,)) -> torch.Tensor:
    with generator.host.ready():
        return generator.generate([prompt] * len(seeds), seeds, SamplingParams(3, 2.0, (64, 64))).int()


def test_a_tag_acts_by_its_weight(generator: ImageGenerator) -> None:
    plain = pictures(generator, "a man")
    assert plain.shape == (1, 64, 64, 3)
    assert torch.equal(pictures(generator, "a man <lora:zor:0>"), plain)
    assert not torch.equal(pictures(generator, "a man <lora:zor:1>"), plain)
    assert not torch.equal(pictures(generator, "a man <lora:zor:1:0>"), pictures(generator, "a man <lora:zor:0:1>"))
    both = pictures(generator, "a man <lora:zor:0.5> <lora:zor:0.5>")
    assert (both - pictures(generator, "a man <lora:zor:1>")).abs().max() <= 1
    assert torch.equal(pictures(generator, "a man"), plain), "hooks stayed behind"


def test_a_sum_is_what_stacked_tags_are(
    generator: ImageGenerator, loras: list[Path], tmp_path: Path, cache: Path
) -> None:
    out = tmp_path / "sum.safetensors"
    options = options_for(loras, out, None, cache, quick=False, method="sum", dtype="fp32")
    merge(options, open_host=open_tiny, progress=Recorder())
    stacked = pictures(generator, "a man <lora:zor:1> <lora:kib:1> <lora:vex:1>", [1, 2])
    assert (pictures(generator, f"a man <lora:{out}:1>", [1, 2]) - stacked).abs().max() <= 1


def test_side_by_side_is_as_one_by_one(generator: ImageGenerator) -> None:
    together = pictures(generator, "a man <lora:kib:1>", [3, 4])
    alone = [pictures(generator, "a man <lora:kib:1>", [seed])[0] for seed in (3, 4)]
    assert all((one - other).abs().max() <= 1 for one, other in zip(together, alone, strict=True))
    with pytest.raises(InputError), generator.host.ready():
        generator.generate(["a <lora:kib:1>", "b"], [1, 2], SamplingParams())


def test_every_batch_size_and_every_door_gives_the_same_pictures(
    generator: ImageGenerator, loras: list[Path], tmp_path: Path
) -> None:
    """Tags of a prompt, deltas without tags, and the command draw picture k from seed k alike, in whatever batches."""
    seeds, prompt, together = range(4, 9), "a man <lora:zor:0.7>", SamplingParams(2, 3.0, (64, 64), "ugly")
    host = generator.host
    zor = weighted_deltas(read_lora(loras[0]), 0.7, 0.7, host.base_weight, host_shapes(host))[0]
    with host.ready():
        tagged = generator.generate([prompt] * 5, seeds, together)
        plain = generator.sample(zor, ["a man"] * 5, seeds, together)
        pairs = generator.sample(zor, ["a man"] * 5, seeds, replace(together, batch_size=2))
        assert generator.sample(zor, [], [], together).shape == (0, 64, 64, 3)
    assert torch.equal(tagged, plain)
    assert (pairs.int() - plain.int()).abs().max() <= 1
    assert (generator.steps(5, together), generator.steps(5, replace(together, batch_size=2))) == (2, 6)
    options = GenerateOptions(prompt, tmp_path / "p.png", sampling=together, seed=4, count=5, lora_dir=loras[0].parent)
    outcome = generate(options, open_host=lambda *_: host, progress=Recorder())
    written = [torch.from_numpy(np.array(Image.open(path))) for path in outcome.files]
    assert torch.equal(torch.stack(written), tagged)


def test_pictures_tell_how_they_were_made(tiny_sd1: Path, loras: list[Path], tmp_path: Path) -> None:
    options = GenerateOptions(
        prompt="a man <lora:zor:0.7>", out=tmp_path / "p.png", checkpoint=tiny_sd1, seed=41,
        sampling=SamplingParams(2, 3.0, (64, 32), "ugly, bad"), count=2, grid=True,
        lora_dir=loras[0].parent, device="cpu",
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
        generate(again, open_host=open_tiny, progress=Recorder(cancel_in="Generating pictures: 2"))
    generate(again, open_host=open_tiny, progress=Recorder())
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"sampling": SamplingParams(size=(63, 64))}, "bad-option"),
        ({"count": 0}, "bad-option"),
        ({"sampling": SamplingParams(steps=0)}, "bad-option"),
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
