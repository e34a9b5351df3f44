"""Regions through a session in A1111: whose rows are whose, what is left behind, what the picture says."""

from __future__ import annotations

import copy
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "regional"))

from fake_webui import Model, Processing, encode_words
from regional_drivers import A1111, FULL, halves, latents, padded, same
from regional_toys import TEXT, hooks, noise, toy

from lib_loraclr.regional import parse_spec


@pytest.fixture
def a1111(monkeypatch: pytest.MonkeyPatch) -> A1111:
    return A1111(monkeypatch)


@pytest.mark.parametrize("solo", [0, 1])
@pytest.mark.parametrize("prompts", [["two"], ["two", "two"], ["x AND y z", "two"], ["two", "x AND y AND z", "one"]])
def test_rows_are_told_apart_however_the_batch_is_cut(a1111: A1111, prompts: list[str], solo: int) -> None:
    p = Processing(prompts, ["bad"] * len(prompts))
    spec = halves(isolation={"separate_until": solo})
    session, x = a1111.session(spec, p), latents(len(prompts))

    def run() -> None:
        session.start_pass(p, x)
        whole = a1111.evaluate(session, p, x)
        for chunk in (1, 2, len(prompts)):
            assert same(a1111.evaluate(session, p, x, together=False, chunk=chunk), whole)
        conditional = a1111.evaluate(session, p, x, skip=True)
        assert same(conditional, whole[: len(conditional)])
        session.stop(p)  # one generation samples at a time
        for picture in range(len(prompts)):
            alone = Processing([prompts[picture]], ["bad"])
            other = a1111.session(spec, alone)
            other.start_pass(alone, x[picture : picture + 1])
            single = a1111.evaluate(other, alone, x[picture : picture + 1])
            rows = [k for k, owner in enumerate(owners(prompts)) if owner == picture]
            assert same(single, whole[rows])
            other.stop(alone)

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


def edited(a1111: A1111, prompt: str, calls: int, x: Tensor, **settings: object) -> list[Tensor]:
    """The conditional row of every call of the model, with one region over the whole picture and this prompt."""
    spec = copy.deepcopy(FULL)
    spec["regions"][0]["prompt"] = prompt
    p = Processing(["two"], ["bad"], **settings)
    session = a1111.session(spec, p)
    seen: list[Tensor] = []

    def run() -> None:
        session.start_pass(p, x)
        seen.extend(a1111.evaluate(session, p, x, step, size=4)[0] for step in range(calls))

    p.sample(run)
    return seen


def test_prompt_editing_switches_at_its_step(a1111: A1111) -> None:
    x = latents(1)
    seen = edited(a1111, "a [red:blue:2] cat", 4, x)
    red, blue = (
        a1111.unet(x, torch.full((1,), 0.3), encode_words(f"a {colour} cat")[None])[0] for colour in ("red", "blue")
    )
    names = ["red" if same(one, red) else "blue" for one in seen]
    assert names == ["red", "red", "red", "blue"]  # the hosts' rule: up to and with the step that is named
    assert same(seen[3], blue)


def test_prompt_editing_with_a_sampler_that_evaluates_twice_a_step(a1111: A1111) -> None:
    """Heun calls the model 2 x 4 times; half of the run is after the fourth call, not after the second."""
    x = latents(1)
    seen = edited(a1111, "a [red:blue:0.5] cat", 8, x, sampler_name="Heun", firstpass_steps=None)
    red = a1111.unet(x, torch.full((1,), 0.3), encode_words("a red cat")[None])[0]
    assert [same(one, red) for one in seen] == [True] * 5 + [False] * 3


def test_two_generations_at_once_do_not_mix(a1111: A1111) -> None:
    specs = halves(), {"regions": [{"shape": {"t": "box", "r": [0, 0, 1, 0.5]}, "prompt": "a cow", "negative": "x"}]}
    x, together, alone = latents(1), [], []
    pairs = [(Processing(["two"], ["bad"]), spec) for spec in specs]
    sessions = [(a1111.session(spec, p), p) for p, spec in pairs]
    for session, p in reversed(sessions):  # one samples while the other waits: the WebUI has one queue
        p.sample(lambda s=session, q=p: (s.start_pass(q, x), together.append(a1111.evaluate(s, q, x))))
    for spec in specs:
        p = Processing(["two"], ["bad"])
        session = a1111.session(spec, p)
        p.sample(lambda s=session, q=p: (s.start_pass(q, x), alone.append(a1111.evaluate(s, q, x))))
    assert all(torch.equal(one, other) for one, other in zip(together, reversed(alone), strict=True))
    assert not same(*alone)
    assert [parse_spec(p.extra_generation_params["Regional"]) for p, _ in pairs] == [parse_spec(one) for one in specs]


def test_equal_texts_are_encoded_once(a1111: A1111) -> None:
    p = Processing(["two"] * 4, ["bad"] * 4)
    session = a1111.session(halves(), p)
    p.sample(lambda: (session.start_pass(p, latents(4)), session.start_pass(p, latents(4))))
    assert sorted(a1111.shared.sd_model.encoded) == ["a red cat", "dog", "one blue bird in a tree"]


@pytest.mark.parametrize("boxes", [1, 2])
def test_solo_halves_are_two_pictures(a1111: A1111, boxes: int) -> None:
    """Whether the canvas is asked as well (one box) or the first half in its place; the cursor counts it once."""
    p = Processing(["two", "three"], ["bad", "bad"])
    spec = halves(isolation={"separate_until": 0.5})
    spec["regions"] = spec["regions"][:boxes]
    session, x = a1111.session(spec, p), latents(2)
    seen: list[Tensor] = []

    def run() -> None:
        session.start_pass(p, x)
        seen.extend(a1111.evaluate(session, p, x, step) for step in (0, 1))
        seen.append(a1111.evaluate(session, p, x, 2))
        session.start_pass(p, x)
        seen.append(a1111.evaluate(session, p, x, 0, together=False, chunk=1))

    p.sample(run)
    assert hooks(a1111.unet) == 0
    assert "Regional notes" not in p.extra_generation_params
    for output in (seen[0], seen[1], seen[3]):
        for k, region in enumerate(spec["regions"]):
            left = slice(4 * k, 4 * k + 4)
            for rows, text in ((slice(0, 2), region["prompt"]), (slice(2, 4), region["negative"])):
                alone = a1111.unet(x[..., left], torch.full((2,), 0.3), encode_words(text).expand(2, -1, -1))
                assert same(output[rows][..., left], alone)
    usual = a1111.session({**spec, "isolation": {}}, other := Processing(["two", "three"], ["bad", "bad"]))
    other.sample(lambda: (usual.start_pass(other, x), seen.append(a1111.evaluate(usual, other, x, 2))))
    assert torch.equal(seen[2], seen[4])
    if boxes == 1:
        assert torch.equal(seen[0][..., 4:], seen[4][..., 4:])


def test_a_control_net_makes_solo_stand_aside(a1111: A1111) -> None:
    """It has its own `forward` on the model and hints as large as the picture."""
    p, x = Processing(["two"], ["bad"]), latents(1)
    unet, seen = a1111.unet, []
    plain, hint = unet.forward, noise(1, 8, 8, 8, seed=44)
    unet.forward = lambda x, *given, **named: plain(x, *given, **named) + hint
    for spec in (halves(), halves(isolation={"separate_until": 1})):
        session = a1111.session(spec, p)
        p.sample(lambda s=session: (s.start_pass(p, x), seen.append(a1111.evaluate(s, p, x))))
    assert torch.equal(*seen)
    assert "pictures of their own" in p.extra_generation_params["Regional notes"]
    assert hooks(unet) == 0


@pytest.mark.parametrize("solo", [0, 1])
@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, None])
def test_nothing_stays_behind(a1111: A1111, fault: type[BaseException] | None, solo: int) -> None:
    p = Processing(["two"], ["bad"])
    before = dict(vars(p))
    session, x = (
        a1111.session(halves(isolation={"strength": 0.5, "min_cells": 1, "separate_until": solo}), p),
        latents(1),
    )

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


@pytest.mark.parametrize("which", [0, 1])
def test_an_error_inside_a_crop_leaves_no_hook(a1111: A1111, which: int) -> None:
    p = Processing(["two"], ["bad"])
    session, x = a1111.session(halves(isolation={"separate_until": 1}), p), latents(1)
    asked: list[int] = []

    def explode(*_: object) -> None:
        asked.append(1)
        if len(asked) > which:
            raise RuntimeError

    inner = a1111.unet.middle_block.attention.register_forward_pre_hook(explode)
    with pytest.raises(RuntimeError):
        p.sample(lambda: (session.start_pass(p, x), a1111.evaluate(session, p, x)))
    inner.remove()
    assert hooks(a1111.unet) == 0


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
    session = a1111.session_type(read, a1111.host, {})
    session.begin(p, read)
    session.before_batch(p, p.prompts)
    assert p.prompts == ["two <lora:other:1> <lora:ink:0.5>", "three"]
    assert "whole picture" in p.extra_generation_params["Regional notes"]
    assert parse_spec(p.extra_generation_params["Regional"]) == read
    assert [region.prompt for region in session.spec.regions] == ["a cat", "a dog"]


class OwnLoras:
    """A LoRA file on one key projection and one layer of the text encoder, and a host that has these layers."""

    UNET = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    TEXT = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"

    def __init__(self, a1111: A1111, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        keys = (
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k",
            ("lora_te_text_model_encoder_layers_0_self_attn_q_proj"),
        )
        unet = a1111.unet.input_blocks[0].attention.transformer_blocks[0].attn2.to_k
        self.unet, self.text = unet, nn.Linear(TEXT, TEXT, bias=False)
        self.text.weight.data = torch.eye(TEXT)
        tensors: dict[str, Tensor] = {}
        for number, (key, layer) in enumerate(zip(keys, (self.unet, self.text), strict=True)):
            tensors[f"{key}.lora_up.weight"] = noise(layer.out_features, 2, seed=200 + number)
            tensors[f"{key}.lora_down.weight"] = noise(2, layer.in_features, seed=300 + number)
            tensors[f"{key}.alpha"] = torch.tensor(2.0)
        save_file(tensors, folder / "ink.safetensors", {"ss_base_model_version": "sd_v1"})
        self.deltas = [tensors[f"{key}.lora_up.weight"] @ tensors[f"{key}.lora_down.weight"] for key in keys]
        a1111.shared.sd_model.encode = lambda text: self.text(encode_words(text)).detach()
        networks = SimpleNamespace(
            available_networks={"ink": SimpleNamespace(filename=str(folder / "ink.safetensors"))},
            list_available_networks=lambda: None,
        )
        monkeypatch.setitem(sys.modules, "networks", networks)
        monkeypatch.setattr(a1111.host, "loaded_host", lambda: self)
        monkeypatch.setattr(a1111.host, "text_scope", lambda host: nullcontext())
        self.info = SimpleNamespace(family="sd1")

    def layers(self) -> dict[str, nn.Module]:
        return {self.UNET: self.unet, self.TEXT: self.text}

    def base_weight(self, name: str) -> Tensor:
        return self.layers()[name].weight


def test_a_lora_of_one_region_acts_in_it_alone(a1111: A1111, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = OwnLoras(a1111, tmp_path, monkeypatch)
    spec = copy.deepcopy(FULL)
    spec["regions"][0]["loras"] = [{"name": "ink", "unet": 0.5, "te": 1}]
    p, x = Processing(["two"], ["bad"]), latents(1)
    session = a1111.session(spec, p)
    seen: list[Tensor] = []
    p.sample(lambda: (session.start_pass(p, x), seen.append(a1111.evaluate(session, p, x, size=4))))
    assert hooks(a1111.unet) == hooks(own.text) == 0
    assert "Regional notes" not in p.extra_generation_params

    own.unet.weight.data += 0.5 * own.deltas[0]
    for row, text in enumerate(("a red cat", "bad")):  # both branches of guidance have it
        context = encode_words(text) @ (torch.eye(TEXT) + own.deltas[1]).T
        assert same(seen[0][row], a1111.unet(x, torch.full((1,), 0.3), context[None])[0])


@pytest.mark.parametrize("name", ["gone", "../ink", "wrong"])
def test_a_lora_of_a_region_that_cannot_be_used_is_left_out_and_that_is_said(
    a1111: A1111, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    OwnLoras(a1111, tmp_path, monkeypatch)
    (tmp_path / "wrong.safetensors").write_bytes(b"nothing")
    networks = sys.modules["networks"].available_networks
    networks["wrong"] = SimpleNamespace(filename=str(tmp_path / "wrong.safetensors"))
    spec = copy.deepcopy(FULL)
    spec["regions"][0]["loras"] = [{"name": name}]
    pictures = []
    for layout in (spec, FULL):
        p, x = Processing(["two"], ["bad"]), latents(1)
        session = a1111.session(layout, p)
        p.sample(lambda s=session, q=p, z=x: (s.start_pass(q, z), pictures.append(a1111.evaluate(s, q, z))))
        assert ("LoRA is left out" in p.extra_generation_params.get("Regional notes", "")) == (layout is spec)
    assert same(*pictures)


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
