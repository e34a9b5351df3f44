"""Regions through a session in Forge: rows by chunks, the patched clone, attention replacements, guidance."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "regional"))

from fake_webui import encode_words
from regional_drivers import Forge, Patcher, halves, latents, same
from regional_toys import WIDTH, attend, hooks, noise


@pytest.fixture
def forge(monkeypatch: pytest.MonkeyPatch) -> Forge:
    return Forge(monkeypatch)


@pytest.mark.parametrize("solo", [0, 1])
def test_forge_rows_in_every_order(forge: Forge, solo: int) -> None:
    p = forge.processing(["two", "three"])
    session, x = forge.session(halves(isolation={"separate_until": solo}), p), latents(2)

    def run() -> None:
        session.start_pass(p, x)
        whole = forge.run_chunks(session, p, x, [1, 0], [2])
        assert same(forge.run_chunks(session, p, x, [0, 1], [2]), whole)
        assert same(forge.run_chunks(session, p, x, [1, 0], [1, 1]), whole)

    p.sample(run)
    assert hooks(forge.unet) == 0


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("boxes", [1, 2])
def test_forge_solo_halves_are_two_pictures(forge: Forge, boxes: int, replaced: bool) -> None:
    """Also where another extension answers in place of a layer: it is asked for the crop with the region's text."""
    seen: list[tuple[int, ...]] = []

    def instead(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        seen.append(tuple(q.shape))
        return attend(q, k, v)

    if replaced:
        forge.patcher.set_model_attn2_replace(instead, "input", 1)
    spec = halves(isolation={"separate_until": 1})
    spec["regions"] = spec["regions"][:boxes]
    p, x = forge.processing(["two"]), latents(1)
    session = forge.session(spec, p)
    found: list[Tensor] = []
    p.sample(lambda: (session.start_pass(p, x), found.append(forge.run_chunks(session, p, x, [1, 0], [2]))))
    assert hooks(forge.unet) == 0
    assert "Regional notes" not in p.extra_generation_params
    assert bool(seen) == replaced
    for k, region in enumerate(spec["regions"]):
        half = x[..., 4 * k : 4 * k + 4]
        for row, text in enumerate((region["prompt"], region["negative"])):
            alone = forge.unet(half, encode_words(text)[None], {})
            assert same(found[0][row : row + 1, ..., 4 * k : 4 * k + 4], alone)


def test_forge_hints_as_large_as_the_picture_make_solo_stand_aside(forge: Forge) -> None:
    outputs = []
    for solo in (0, 1):
        forge.model.forge_objects.unet = Patcher(SimpleNamespace(diffusion_model=forge.unet))
        forge.patcher.model_options["transformer_options"]["hints"] = {"input": [noise(1, 4, 8, 8)]}
        p, x = forge.processing(["two"]), latents(1)
        session = forge.session(halves(isolation={"separate_until": solo}), p)
        p.sample(lambda s=session, q=p, z=x: (s.start_pass(q, z), outputs.append(forge.run_chunks(s, q, z, [0], [1]))))
    assert torch.equal(*outputs)
    assert "ControlNet" in p.extra_generation_params["Regional notes"]


def test_forge_swapped_prompts_swap_the_halves(forge: Forge) -> None:
    seen = []
    for turn in (1, -1):
        spec = halves()
        texts = [region["prompt"] for region in spec["regions"]][::turn]
        for region, text in zip(spec["regions"], texts, strict=True):
            region["prompt"] = text
        p = forge.processing(["two"])
        session = forge.session(spec, p)
        x = latents(1)
        x = (x + x.flip(-1)) / 2  # a picture that is its own mirror image
        p.sample(lambda s=session, q=p, z=x: (s.start_pass(q, z), seen.append(forge.run_chunks(s, q, z, [1, 0], [2]))))
        forge.model.forge_objects.unet = Patcher(SimpleNamespace(diffusion_model=forge.unet))
    assert same(seen[0], seen[1].flip(-1))
    assert (seen[0] - seen[0].flip(-1)).abs().max() > 0.01


def test_forge_clone_is_idle_once_the_pass_is_over(forge: Forge) -> None:
    original = forge.patcher
    p = forge.processing(["two"])
    session, x = forge.session(halves(), p), latents(1)
    plain = forge.run_chunks(SimpleNamespace(step=lambda *_: None), p, x, [1, 0], [2])
    seen = []
    p.sample(lambda: (session.start_pass(p, x), seen.append(forge.run_chunks(session, p, x, [1, 0], [2]))))
    assert (seen[0] - plain).abs().max() > 0.01
    assert original.model_options == {"transformer_options": {}}
    assert torch.equal(forge.run_chunks(SimpleNamespace(step=lambda *_: None), p, x, [1, 0], [2]), plain)


def test_forge_attention_replacement_adds_its_part_once(forge: Forge) -> None:
    """An IP-Adapter-like replacement adds the same term whatever the text: with regions it is there exactly once."""
    extra = noise(1, 64, WIDTH, seed=77)

    def without(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        return attend(q, k, v)

    def added(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        return attend(q, k, v) + extra

    seen = {}
    last = forge.unet.input_blocks[1][1].transformer_blocks[0]
    for name, patch in (("none", None), ("plain", without), ("adapter", added)):
        forge.model.forge_objects.unet = Patcher(SimpleNamespace(diffusion_model=forge.unet))
        if patch is not None:
            forge.patcher.set_model_attn2_replace(patch, "input", 1)
        p = forge.processing(["two"])
        session, x = forge.session(halves(), p), latents(1)

        def run(session: Any = session, p: Any = p, x: Tensor = x, name: str = name) -> None:
            session.start_pass(p, x)
            seen[name] = forge.run_chunks(session, p, x, [1, 0], [2])

        p.sample(run)
    assert same(seen["plain"], seen["none"])
    once = (extra @ last.attn2.to_out[0].weight.T).transpose(1, 2).unflatten(2, (8, 8))
    assert same(seen["adapter"] - seen["plain"], once.expand(2, -1, -1, -1))


def test_forge_guidance_of_a_region(forge: Forge) -> None:
    spec = halves()
    spec["regions"][0]["cfg"] = 9.0
    p = forge.processing(["two"])
    session, x = forge.session(spec, p), latents(1)
    conditional, empty = noise(1, 4, 8, 8, seed=1), noise(1, 4, 8, 8, seed=2)
    given = {"denoised": empty + 5 * (conditional - empty), "cond_denoised": conditional, "uncond_denoised": empty}

    def run() -> None:
        session.start_pass(p, x)
        (guide,) = forge.patcher.model_options["sampler_post_cfg_function"]
        forge.run_chunks(session, p, x, [0], [1])  # a step without the negative branch: nothing to guide
        assert guide(given) is given["denoised"]
        forge.run_chunks(session, p, x, [1, 0], [2])
        wanted = torch.full((8,), 5.0)
        wanted[:4] = 9.0
        assert same(guide(given), empty + wanted * (conditional - empty))

    p.sample(run)


@pytest.mark.parametrize(
    "given",
    [[False, halves()], [], [True, {"regions": []}], [True, {"regions": [{**halves()["regions"][0], "on": False}]}]],
)
def test_a_panel_that_is_off_touches_nothing(forge: Forge, given: list[Any]) -> None:
    """No hook, no clone, no word in the infotext, and the picture bit by bit."""
    from lib_loraclr.frontends.panel.script import RegionalScript

    script = RegionalScript(forge.host)
    p, x = forge.processing(["two"]), latents(1)
    before, patcher = dict(vars(p)), forge.patcher
    plain = forge.run_chunks(SimpleNamespace(step=lambda *_: None), p, x, [1, 0], [2])
    script.begin(p, given)
    script.before_batch(p, p.prompts)
    script.before_sampling(p)
    script.start_pass(p, x)
    script.step(SimpleNamespace(denoiser=SimpleNamespace(p=p), x=x))
    script.guide(SimpleNamespace(x=x))
    assert forge.patcher is patcher
    assert hooks(forge.unet) == 0
    assert torch.equal(forge.run_chunks(SimpleNamespace(step=lambda *_: None), p, x, [1, 0], [2]), plain)
    script.end(p)
    assert vars(p) == before
    assert forge.model.encoded == []
