"""Regions through a session in A1111 and Forge: whose rows are whose, what is left behind, what the picture says."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "regional"))

import fake_webui
from fake_webui import Model, Processing, encode_words
from regional_toys import WIDTH, CrossAttention, attend, hooks, noise, toy

from lib_loraclr.regional import parse_spec

LEFT, RIGHT = [0, 0, 0.5, 1], [0.5, 0, 1, 1]
FULL = {"regions": [{"shape": {"t": "box", "r": [0, 0, 1, 1]}, "prompt": "a red cat"}]}


def same(found: Tensor, wanted: Tensor) -> bool:
    """Equal but for rounding, which differs with the number of rows in a product."""
    return float((found - wanted).abs().max()) <= 2e-5 * float(wanted.abs().max())


def halves(**more: Any) -> dict[str, Any]:
    regions = [
        {"shape": {"t": "box", "r": box}, "prompt": text, "neg": negative, "negmode": "replace"}
        for box, text, negative in ((LEFT, "a red cat", "dog"), (RIGHT, "one blue bird in a tree", "dog"))
    ]
    return {"feather": 0, "regions": regions, **more}


class A1111:
    """The real session and adapter around a toy UNet, driven as A1111's denoiser drives it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.unet = toy(label=False)
        self.shared = fake_webui.install(monkeypatch, Model(self.unet))
        from lib_loraclr.hosts.a1111.regional import A1111Adapter
        from lib_loraclr.hosts.webui.regional_session import RegionalSession

        self.adapter, self.session_type = A1111Adapter(), RegionalSession

    def session(self, spec: dict[str, Any], p: Processing) -> Any:
        read = parse_spec(spec)
        session = self.session_type(read, self.adapter, {})
        session.begin(p, read)
        session.before_batch(p, p.prompts)
        p.prompts = [fake_webui.parse_prompt(prompt)[0] for prompt in p.prompts]
        session.around_sampling(p)
        return session

    def conds(self, p: Processing) -> tuple[list[list[Tensor]], list[Tensor]]:
        """Per picture the parts of AND, and the negatives."""
        return (
            [[encode_words(part) for part in prompt.split(" AND ")] for prompt in p.prompts],
            [encode_words(negative) for negative in p.negative_prompts],
        )

    def evaluate(self, session: Any, p: Processing, x: Tensor, step: int = 0, *, together: bool = True,
                 chunk: int = 0, skip: bool = False, size: int = 12) -> Tensor:  # fmt: skip
        """One step: (rows, c, h, w) of the model's outputs in the denoiser's order, padded to `size` words."""
        parts, negatives = self.conds(p)
        rows = [(picture, cond) for picture, conds in enumerate(parts) for cond in conds]
        rows += [(picture, cond) for picture, cond in enumerate(negatives)]
        batch = SimpleNamespace(batch=[[None] * len(conds) for conds in parts])
        denoiser = SimpleNamespace(
            p=p, step=step, total_steps=p.steps, sampler=SimpleNamespace(sampler_extra_args={"cond": batch})
        )
        inputs = torch.stack([x[picture] for picture, _ in rows])
        session.step(p, SimpleNamespace(x=inputs, denoiser=denoiser))
        used = len(rows) - len(negatives) if skip else len(rows)
        each = used if together else chunk
        found = []
        for start in range(0, used, each):
            part = rows[start : min(start + each, used)]
            context = torch.stack([padded(cond, size) for _, cond in part])
            found.append(self.unet(inputs[start : start + len(part)], torch.full((len(part),), 0.3), context))
        return torch.cat(found)


def padded(cond: Tensor, size: int) -> Tensor:
    return torch.cat([cond, cond[-1:].expand(size - len(cond), -1)])


@pytest.fixture
def a1111(monkeypatch: pytest.MonkeyPatch) -> A1111:
    return A1111(monkeypatch)


def latents(pictures: int, height: int = 8, width: int = 8) -> Tensor:
    return noise(pictures, WIDTH, height, width, seed=5)


@pytest.mark.parametrize("prompts", [["two"], ["two", "two"], ["x AND y z", "two"], ["two", "x AND y AND z", "one"]])
def test_rows_are_told_apart_however_the_batch_is_cut(a1111: A1111, prompts: list[str]) -> None:
    p = Processing(prompts, ["bad"] * len(prompts))
    session, x = a1111.session(halves(), p), latents(len(prompts))

    def run() -> None:
        session.start_pass(p, x)
        whole = a1111.evaluate(session, p, x)
        for chunk in (1, 2, len(prompts)):
            assert same(a1111.evaluate(session, p, x, together=False, chunk=chunk), whole)
        conditional = a1111.evaluate(session, p, x, skip=True)
        assert same(conditional, whole[: len(conditional)])
        for picture in range(len(prompts)):
            alone = Processing([prompts[picture]], ["bad"])
            other = a1111.session(halves(), alone)
            other.start_pass(alone, x[picture : picture + 1])
            single = a1111.evaluate(other, alone, x[picture : picture + 1])
            rows = [k for k, owner in enumerate(owners(prompts)) if owner == picture]
            assert same(single, whole[rows])
            other.stop(alone)
            session.start_pass(p, x)

    p.sample(run)
    assert hooks(a1111.unet) == 0


def owners(prompts: list[str]) -> list[int]:
    conditional = [k for k, prompt in enumerate(prompts) for _ in prompt.split(" AND ")]
    return conditional + list(range(len(prompts)))


def test_one_full_frame_region_is_the_plain_prompt(a1111: A1111) -> None:
    p = Processing(["two"], ["bad"])
    session, x = a1111.session(FULL, p), latents(1)
    contexts = torch.stack([encode_words("a red cat"), encode_words("bad")[[0, 1, 1, 1]]])
    plain = a1111.unet(torch.cat([x, x]), torch.full((2,), 0.3), contexts)
    seen = []
    p.sample(lambda: (session.start_pass(p, x), seen.append(a1111.evaluate(session, p, x, size=4))))
    assert torch.equal(seen[0], plain)


def test_prompt_editing_switches_at_its_step(a1111: A1111) -> None:
    spec = copy.deepcopy(FULL)
    spec["regions"][0]["prompt"] = "a [red:blue:2] cat"
    p = Processing(["two"], ["bad"])
    session, x = a1111.session(spec, p), latents(1)
    seen: list[Tensor] = []

    def run() -> None:
        session.start_pass(p, x)
        seen.extend(a1111.evaluate(session, p, x, step, size=4)[0] for step in range(4))

    p.sample(run)
    wanted = []
    for colour in ("red", "blue"):
        context = torch.stack([encode_words(f"a {colour} cat")])
        wanted.append(a1111.unet(x, torch.full((1,), 0.3), context)[0])
    names = ["red" if same(one, wanted[0]) else "blue" for one in seen]
    assert names == ["red", "red", "red", "blue"]  # the hosts' rule: up to and with the step that is named
    assert same(seen[3], wanted[1])


def test_equal_texts_are_encoded_once(a1111: A1111) -> None:
    p = Processing(["two"] * 4, ["bad"] * 4)
    session = a1111.session(halves(), p)
    p.sample(lambda: (session.start_pass(p, latents(4)), session.start_pass(p, latents(4))))
    assert sorted(a1111.shared.sd_model.encoded) == ["a red cat", "dog", "one blue bird in a tree"]


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, None])
def test_nothing_stays_behind(a1111: A1111, fault: type[BaseException] | None) -> None:
    p = Processing(["two"], ["bad"])
    before = dict(vars(p))
    session, x = a1111.session(halves(iso={"s": 0.5, "min": 1}), p), latents(1)

    def run() -> None:
        session.start_pass(p, x)
        a1111.evaluate(session, p, x)
        assert hooks(a1111.unet) > 0
        if fault is not None:
            raise fault

    if fault is None:
        p.sample(run)
    else:
        with pytest.raises(fault):
            p.sample(run)
    assert hooks(a1111.unet) == 0
    assert "sample" not in vars(p)
    assert set(vars(p)) == set(before)


def test_hires_pass_has_its_own_size_and_texts_and_may_start_twice(a1111: A1111) -> None:
    p = Processing(["two"], ["bad"], enable_hr=True, hr_prompts=["big two"], hr_negative_prompts=["bad"],
                   hr_upscale_to_x=96, hr_upscale_to_y=128, hr_second_pass_steps=0, hr_sampler_name=None,
                   hr_extra_network_data={})  # fmt: skip
    session = a1111.session(halves(hires={"prompt_suffix": "sharp"}), p)

    def run() -> None:
        session.start_pass(p, latents(1))
        first = hooks(a1111.unet)
        p.is_hr_pass = True
        for _ in range(2):
            session.start_pass(p, latents(1, 16, 12))
            assert hooks(a1111.unet) == first
        a1111.evaluate(session, p, latents(1, 16, 12))

    p.sample(run)
    assert "a red cat, sharp" in a1111.shared.sd_model.encoded
    assert "Regional notes" not in p.extra_generation_params


def test_tiles_of_another_extension_stay_plain_and_are_told(a1111: A1111) -> None:
    p = Processing(["two"], ["bad"])
    session, tile = a1111.session(halves(), p), latents(1, 4, 8)
    seen = []
    p.sample(lambda: (session.start_pass(p, latents(1)), seen.append(a1111.evaluate(session, p, tile, size=5))))
    contexts = torch.stack([padded(encode_words("two"), 5), padded(encode_words("bad"), 5)])
    assert torch.equal(seen[0], a1111.unet(torch.cat([tile, tile]), torch.full((2,), 0.3), contexts))
    assert "tiles" in p.extra_generation_params["Regional notes"]
    assert len(p.comments) == 1


def test_a_refiner_is_hooked_and_encoded_anew(a1111: A1111) -> None:
    p = Processing(["two"], ["bad"])
    session, x = a1111.session(FULL, p), latents(1)
    first, second = a1111.unet, toy(label=False, seed=9)
    seen = []

    def run() -> None:
        session.start_pass(p, x)
        a1111.evaluate(session, p, x, 0)
        a1111.shared.sd_model = Model(second)
        a1111.unet = second
        seen.append(a1111.evaluate(session, p, x, 1, size=4))
        assert hooks(first) == 0

    p.sample(run)
    contexts = torch.stack([encode_words("a red cat"), encode_words("bad")[[0, 1, 1, 1]]])
    assert torch.equal(seen[0], second(torch.cat([x, x]), torch.full((2,), 0.3), contexts))
    assert a1111.shared.sd_model.encoded == ["a red cat"]
    assert hooks(second) == 0


def test_replacement_unet_is_refused(a1111: A1111, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["modules.sd_unet"], "current_unet", object())
    p = Processing(["two"], ["bad"])
    session = a1111.session(halves(), p)
    p.sample(lambda: session.start_pass(p, latents(1)))
    assert "TensorRT" in p.extra_generation_params["Regional notes"]
    assert a1111.shared.sd_model.encoded == []


def test_lora_tags_of_regions_act_on_the_whole_picture_once(a1111: A1111) -> None:
    spec = halves()
    spec["regions"][0]["prompt"] = "a cat <lora:ink:0.5>"
    spec["regions"][1]["prompt"] = "a dog <lora:ink:0.5><lora:other:1>"
    p = Processing(["two <lora:other:1>", "three"], ["bad", "bad"])
    read = parse_spec(spec)
    session = a1111.session_type(read, a1111.adapter, {})
    session.begin(p, read)
    session.before_batch(p, p.prompts)
    assert p.prompts == ["two <lora:other:1> <lora:ink:0.5>", "three"]
    assert "whole picture" in p.extra_generation_params["Regional notes"]
    assert parse_spec(p.extra_generation_params["Regional"]) == read
    assert [region.prompt for region in session.spec.regions] == ["a cat", "a dog"]


def test_a_lora_of_one_region_is_left_out_and_that_is_said(a1111: A1111) -> None:
    spec = halves()
    spec["regions"][0]["loras"] = [{"name": "ink", "te": 1, "unet": 1}]
    for shown, on in ((True, True), (False, False)):
        spec["regions"][0]["on"] = on
        p, read = Processing(["two"], ["bad"]), parse_spec(spec)
        a1111.session_type(read, a1111.adapter, {}).begin(p, read)
        assert ("LoRAs of single regions" in p.extra_generation_params.get("Regional notes", "")) == shown


def test_text_mode_takes_the_regions_out_of_every_prompt(a1111: A1111) -> None:
    spec = halves(mode="text", sep="BREAK")
    p = Processing(["scene ADDBASE cat BREAK dog", "scene ADDBASE cow"], ["bad", "bad"])
    session = a1111.session(spec, p)
    assert p.prompts == ["scene", "scene"]
    p.sample(lambda: session.start_pass(p, latents(2)))
    assert sorted(a1111.shared.sd_model.encoded) == ["cat", "cow", "dog", "dog", "scene"]
    assert "1 parts for 2 regions" in p.extra_generation_params["Regional notes"]


def test_guidance_of_a_region_in_a1111(a1111: A1111) -> None:
    spec = halves()
    spec["regions"][0]["cfg"] = 10.0
    p = Processing(["x AND y"], ["bad"])
    session, x = a1111.session(spec, p), latents(1)

    def run() -> None:
        session.start_pass(p, x)
        outputs = a1111.evaluate(session, p, x)
        before = outputs.clone()
        session.running.guide(SimpleNamespace(x=outputs))
        for row in (0, 1):
            plain, found = before[row] - before[2], outputs[row] - before[2]
            assert same(found[..., :4], 2 * plain[..., :4])
            assert same(found[..., 4:], plain[..., 4:])
        assert torch.equal(outputs[2], before[2])

    p.sample(run)


class ForgeBlock(nn.Module):
    """Forge's transformer block: attention replacements bypass the layer's own call."""

    def __init__(self) -> None:
        super().__init__()
        self.attn1, self.attn2 = CrossAttention(WIDTH), CrossAttention(fake_webui.WIDTH)

    def forward(self, x: Tensor, context: Tensor, options: dict[str, Any]) -> Tensor:
        x = x + self.attn1(x)
        replace = options.get("patches_replace", {}).get("attn2", {}).get(options["block"])
        if replace is None:
            return x + self.attn2(x, context=context)
        extra = {key: value for key, value in options.items() if key != "patches_replace"}
        layer = self.attn2
        return x + layer.to_out(replace(layer.to_q(x), layer.to_k(context), layer.to_v(context), extra))


class ForgeTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList([ForgeBlock()])

    def forward(self, x: Tensor, context: Tensor, options: dict[str, Any]) -> Tensor:
        tokens = self.transformer_blocks[0](x.flatten(2).transpose(1, 2), context, {**options, "block_index": 0})
        return tokens.transpose(1, 2).unflatten(2, x.shape[-2:])


class ForgeUNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Identity(), ForgeTransformer()]) for _ in range(2)])

    def forward(self, x: Tensor, context: Tensor, options: dict[str, Any]) -> Tensor:
        for number, (_, transformer) in enumerate(self.input_blocks):
            x = transformer(x, context, {**options, "block": ("input", number)})
        return x


class Patcher:
    """`UnetPatcher`: clones copy the options deeply."""

    def __init__(self, model: Any, options: dict[str, Any] | None = None) -> None:
        self.model, self.model_options = model, options or {"transformer_options": {}}

    def clone(self) -> Patcher:
        return Patcher(self.model, copy.deepcopy(self.model_options))

    def set_model_unet_function_wrapper(self, wrapper: Any) -> None:
        self.model_options["model_function_wrapper"] = wrapper

    def set_model_attn2_replace(self, patch: Any, block: str, number: int, index: int | None = None) -> None:
        key = (block, number) if index is None else (block, number, index)
        replace = self.model_options["transformer_options"].setdefault("patches_replace", {})
        replace.setdefault("attn2", {})[key] = patch

    def set_model_sampler_post_cfg_function(self, function: Any) -> None:
        self.model_options.setdefault("sampler_post_cfg_function", []).append(function)


class Forge(A1111):
    """The same session with Forge's adapter."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.unet = ForgeUNet()
        for k, parameter in enumerate(self.unet.parameters()):
            parameter.data = noise(*parameter.shape, seed=100 + k) * 0.6
            parameter.requires_grad_(False)
        self.model = SimpleNamespace(
            encoded=[], encode=encode_words,
            forge_objects=SimpleNamespace(unet=Patcher(SimpleNamespace(diffusion_model=self.unet))),
        )  # fmt: skip
        self.shared = fake_webui.install(monkeypatch, self.model)
        from lib_loraclr.hosts.forge.regional import ForgeAdapter
        from lib_loraclr.hosts.webui.regional_session import RegionalSession

        self.adapter, self.session_type = ForgeAdapter(), RegionalSession

    @property
    def patcher(self) -> Patcher:
        return self.model.forge_objects.unet

    def processing(self, prompts: list[str]) -> Processing:
        return Processing(prompts, ["bad"] * len(prompts), sd_model=self.model)

    def run_chunks(self, session: Any, p: Processing, x: Tensor, chunks: list[int], calls: list[int]) -> Tensor:
        """Outputs of (conditional, unconditional) pictures; `calls` are the sizes of the model's calls in chunks."""
        denoiser = SimpleNamespace(p=p, step=0, total_steps=p.steps)
        session.step(p, SimpleNamespace(x=x, denoiser=denoiser))
        texts = {0: p.prompts, 1: p.negative_prompts}
        found: dict[int, Tensor] = {}
        at = 0
        for size in calls:
            part = chunks[at : at + size]
            at += size
            context = torch.stack([padded(encode_words(text), 12) for chunk in part for text in texts[chunk]])
            options = self.patcher.model_options["transformer_options"]
            given = {"input": torch.cat([x] * size), "timestep": None, "cond_or_uncond": part,
                     "c": {"context": context, "options": options}}  # fmt: skip
            wrapper: Callable[..., Tensor] | None = self.patcher.model_options.get("model_function_wrapper")
            apply = lambda x, t, context, options: self.unet(x, context, options)  # noqa: E731
            output = wrapper(apply, given) if wrapper else apply(given["input"], None, context, options)
            found |= dict(zip(part, output.chunk(size), strict=True))
        return torch.cat([found[chunk] for chunk in (0, 1) if chunk in found])


@pytest.fixture
def forge(monkeypatch: pytest.MonkeyPatch) -> Forge:
    return Forge(monkeypatch)


def test_forge_rows_in_every_order(forge: Forge) -> None:
    p = forge.processing(["two", "three"])
    session, x = forge.session(halves(), p), latents(2)

    def run() -> None:
        session.start_pass(p, x)
        whole = forge.run_chunks(session, p, x, [1, 0], [2])
        assert same(forge.run_chunks(session, p, x, [0, 1], [2]), whole)
        assert same(forge.run_chunks(session, p, x, [1, 0], [1, 1]), whole)

    p.sample(run)
    assert hooks(forge.unet) == 0


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
