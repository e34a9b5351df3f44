"""Regions in the standalone host: the plain picture where they must be it, and their own where they act."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lib_loraclr.capture import inject
from lib_loraclr.core.deltas import Delta, LowRank
from lib_loraclr.core.errors import Cancelled, InputError
from lib_loraclr.generation.generator import ImageGenerator, SamplingParams
from lib_loraclr.hosts.standalone import StandaloneHost, load_checkpoint
from lib_loraclr.model import Phase, SampleRequest
from lib_loraclr.regional import parse_spec
from lib_loraclr.regional.lora import RegionalRequest

FULL = {"t": "box", "r": [0, 0, 1, 1]}
LEFT, RIGHT = {"t": "box", "r": [0, 0, 0.5, 1]}, {"t": "box", "r": [0.5, 0, 1, 1]}


@pytest.fixture(scope="module")
def host(tiny_sd1: Path) -> StandaloneHost:
    return load_checkpoint(tiny_sd1)


def sample(host: StandaloneHost, prompt: str, regions: list[Any] | None = None, **fields: Any) -> Tensor:
    request = {"steps": 2, "size": (64, 64), "cfg_scale": 3.0, "negative_prompt": "fog"}
    request |= {name: fields.pop(name) for name in list(fields) if name in request}
    deltas = fields.pop("deltas", ())
    regional = None if regions is None else RegionalRequest(parse_spec({**fields, "regions": regions}), deltas)
    return host.sample(SampleRequest([prompt], [7], regions=regional, **request))  # pyright: ignore[reportArgumentType]


def hooks(host: StandaloneHost) -> int:
    models = (host.unet, *host.text.encoders)
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for model in models for m in model.modules())


def test_one_full_frame_region_is_the_plain_prompt(host: StandaloneHost, tiny_sdxl: Path) -> None:
    long = "a red dog " * 40  # three chunks
    for model, size in ((host, (64, 96)), (load_checkpoint(tiny_sdxl), (64, 64))):
        for prompt, scale in (("a red dog", 3.0), (long, 1.0)):
            regions = [{"shape": FULL, "prompt": prompt, "negative": "rain", "negative_mode": "replace"}]
            plain = sample(model, prompt, negative_prompt="rain", size=size, cfg_scale=scale)
            assert torch.equal(sample(model, "something else", regions, size=size, cfg_scale=scale), plain)
            other = sample(model, "something else", negative_prompt="rain", size=size, cfg_scale=scale)
            assert not torch.allclose(other, plain, atol=0.1)
        assert hooks(model) == 0


def test_layouts_that_are_off_are_no_layouts(host: StandaloneHost) -> None:
    plain = sample(host, "a dog")
    for regions in ([], [{"shape": FULL, "prompt": "a cat", "on": False}]):
        assert torch.equal(sample(host, "a dog", regions), plain)
    assert not torch.equal(sample(host, "a dog", [{"shape": FULL, "prompt": "a cat"}]), plain)
    late = [{"shape": FULL, "prompt": "a cat", "steps": [0.5, 0.5]}]
    assert torch.equal(sample(host, "a dog", late), plain)


def test_a_regions_prompt_changes_its_own_half_most(host: StandaloneHost) -> None:
    """One step; the norms and the self-attention of an untrained UNet carry much across, so it is most, not all."""
    settings: dict[str, Any] = {"steps": 1, "size": (128, 64), "cfg_scale": 1.0}
    regions = [{"shape": LEFT, "prompt": "a dog"}, {"shape": RIGHT, "prompt": "a cat"}]
    before = sample(host, "x", regions, **settings)
    for side in (0, 1):
        changed = [{**region, "prompt": "a blue car"} if k == side else region for k, region in enumerate(regions)]
        change = (sample(host, "x", changed, **settings) - before).abs().mean((0, 1, 2)).unflatten(0, (2, 8)).mean(1)
        assert change[side] > 1.1 * change[1 - side]


def test_a_region_with_its_own_scale(host: StandaloneHost) -> None:
    """The first step is linear in the guidance; without the picture's own guidance both branches run all the same."""
    settings: dict[str, Any] = {"steps": 1, "base": {"in_regions": 1.0}}
    low, high = (sample(host, "a dog", steps=1, cfg_scale=scale) for scale in (2.0, 6.0))
    full = [{"shape": FULL, "prompt": "a dog", "cfg": 6.0}]
    mixed = sample(host, "a dog", full, steps=1, cfg_scale=2.0)
    assert torch.allclose(mixed, high, atol=1e-3 * float(high.abs().max()))
    halves = sample(host, "a dog", [{"shape": LEFT, "prompt": "a dog", "cfg": 6.0}], steps=1, cfg_scale=2.0, feather=0)
    assert torch.allclose(halves[..., 4:], low[..., 4:], atol=1e-3 * float(low.abs().max()))
    assert torch.allclose(halves[..., :4], high[..., :4], atol=1e-3 * float(high.abs().max()))
    unguided = sample(host, "a dog", full, steps=1, cfg_scale=1.0)
    assert torch.allclose(unguided, high, atol=1e-3 * float(high.abs().max()))
    assert torch.equal(sample(host, "a dog", full, **settings), sample(host, "a dog", steps=1))


def test_a_lora_of_one_region(host: StandaloneHost) -> None:
    """In text encoder and UNet; where the region is the whole picture it is the LoRA of the whole picture."""
    generator = torch.Generator().manual_seed(3)
    names = [name for name in host.layers() if name.endswith(("attn2.to_k", "attn2.to_v", "q_proj"))]
    deltas: dict[str, Delta] = {}
    for name in names:
        out, width = host.layers()[name].weight.shape
        deltas[name] = LowRank(
            torch.randn(out, 2, generator=generator) * 0.3, torch.randn(2, width, generator=generator) * 0.3
        )
    region = [{"shape": FULL, "prompt": "a dog", "loras": [{"name": "any"}]}]  # the negative is the picture's own
    for scale in (1.0, 3.0):
        with inject(host.layers(), deltas):
            whole = sample(host, "a dog", cfg_scale=scale)
        ours = sample(host, "x", region, deltas=[deltas], cfg_scale=scale)
        assert torch.allclose(ours, whole, atol=1e-4 * float(whole.abs().max()))
        assert not torch.allclose(whole, sample(host, "a dog", cfg_scale=scale), atol=1e-2)
    assert hooks(host) == 0


def test_solo_halves_are_two_pictures_of_one_square(
    host: StandaloneHost, tiny_sdxl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the end of the run, from the same noise: the canvas is what the two prompts paint alone, side by side."""
    from lib_loraclr.hosts.standalone import host as module

    drawn, sizes = module.initial_noise, module.StandaloneHost._size_embedding
    texts = "a red dog", "a blue car, " * 30
    regions = [
        {"shape": shape, "prompt": text, "negative": "rain", "negative_mode": "replace"}
        for shape, text in zip((LEFT, RIGHT), texts, strict=True)
    ]
    for model in (host, load_checkpoint(tiny_sdxl)):
        noise = drawn(SampleRequest(["x"], [7], 2, (128, 64), 3.0), 4, model._factor)
        half = noise.shape[-1] // 2
        # SDXL is told the canvas's size in both, as it is in every region
        monkeypatch.setattr(module.StandaloneHost, "_size_embedding", lambda self, b, size: sizes(self, b, (128, 64)))
        monkeypatch.setattr(module, "initial_noise", lambda *_: noise)  # noqa: B023
        canvas = sample(model, "x", regions, size=(128, 64), isolation={"separate_until": 1})
        usual = sample(model, "x", regions, size=(128, 64))
        alone = []
        for side, text in enumerate(texts):
            monkeypatch.setattr(module, "initial_noise", lambda *_: noise[..., side * half : (side + 1) * half])  # noqa: B023
            alone.append(sample(model, text, negative_prompt="rain"))
        monkeypatch.undo()
        wanted = torch.cat(alone, -1)
        assert torch.allclose(canvas, wanted, atol=1e-4 * float(wanted.abs().max()))
        assert not torch.allclose(usual, wanted, atol=1e-2)
        assert hooks(model) == 0


def test_no_hook_stays_after_a_cancel(host: StandaloneHost) -> None:
    class Stop:
        def phase(self, phase: Phase, steps: int, detail: str = "") -> None: ...
        def message(self, text: str) -> None: ...
        def step(self, text: str = "") -> None:
            raise Cancelled

    spec = parse_spec(
        {"regions": [{"shape": LEFT, "prompt": "a dog"}], "isolation": {"strength": 1, "separate_until": 1}}
    )
    request = SampleRequest(["x"], [1], 2, (64, 64), 3.0, regions=RegionalRequest(spec))
    with pytest.raises(Cancelled):
        host.sample(request, Stop())
    assert hooks(host) == 0


def test_a_tag_in_a_region_acts_everywhere_and_says_so(host: StandaloneHost, tmp_path: Path) -> None:
    generator = ImageGenerator(host, lora_dir=tmp_path)
    spec = parse_spec({"regions": [{"shape": LEFT, "prompt": "a dog <lora:nobody:1>"}]})
    with host.ready(), pytest.raises(InputError, match="nobody"):
        generator.generate(["x"], [1], SamplingParams(1, 1.0, (64, 64)), regions=spec)
    assert [warning.code for warning in generator.warnings] == ["region-tag"]


def test_generate_takes_a_layout_file(tiny_sd1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    from lib_loraclr.frontends.cli import main

    layout = tmp_path / "layout.json"
    spec = {"regions": [{"shape": LEFT, "prompt": "a dog"}, {"shape": RIGHT, "prompt": 'a "cat"'}]}
    layout.write_text(json.dumps(spec))
    given = ["generate", "--checkpoint", str(tiny_sd1), "--prompt", "a park", "--steps", "1", "--size", "64x64",
             "--device", "cpu", "--regions", str(layout)]  # fmt: skip
    assert main([*given, "--out", str(tmp_path / "a.png")]) == 0
    with Image.open(tmp_path / "a.png") as picture:
        written = picture.text["parameters"]  # pyright: ignore[reportAttributeAccessIssue]
    assert parse_spec(json.loads(written.partition("Regional: ")[2])) == parse_spec(spec)
    layout.write_text('{"regions": [{"shape": {"t": "box", "r": [0, 0, 0, 1]}}]}')
    capsys.readouterr()
    assert main([*given, "--out", str(tmp_path / "b.png")]) == 2
    assert "no area" in capsys.readouterr().err
    assert not (tmp_path / "b.png").exists()
