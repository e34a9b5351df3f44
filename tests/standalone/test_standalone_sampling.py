"""Sampling: against diffusers' own schedulers, batch independence, guidance rows, hooks, and side effects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lib_loraclr.capture import inject
from lib_loraclr.core.deltas import Delta, Dense, LayerShape, LowRank
from lib_loraclr.core.errors import Cancelled, InputError
from lib_loraclr.hosts.standalone import StandaloneHost, load_checkpoint
from lib_loraclr.model import DiffusionHost, Phase, SampleRequest
from lib_loraclr.samplers import NoiseSchedule, first_noise

SIZE = (64, 64)


@pytest.fixture(scope="module")
def host(tiny_sd1: Path) -> StandaloneHost:
    return load_checkpoint(tiny_sd1)


def reference(host: StandaloneHost, scheduler: Any, prompt: str, seed: int, steps: int) -> Tensor:
    """The same picture by a diffusers scheduler and the text model called directly."""
    scheduler.set_timesteps(steps)
    latents = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed))[None]
    ids = host.text.tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        context = host.text.encoders[0](input_ids=ids).last_hidden_state
        for step in scheduler.timesteps:
            output = host.unet(scheduler.scale_model_input(latents, step), step, context).sample
            latents = scheduler.step(output, step, latents).prev_sample
    return latents


TRAINED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": "trailing"}


def test_ddim_is_diffusers_ddim(host: StandaloneHost) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(**TRAINED, clip_sample=False, set_alpha_to_one=True)
    ours = host.sample(SampleRequest(["a red dog"], [7], 5, SIZE))
    expected = reference(host, scheduler, "a red dog", 7, 5)
    assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_v_and_epsilon_outputs_mean_the_same_picture() -> None:
    """x = alpha x0 + sigma eps, v = alpha eps - sigma x0: both predictions must give back x0."""
    clean, noise = torch.full((1, 1, 2, 2), 0.7), torch.full((1, 1, 2, 2), -0.4)
    for prediction in ("epsilon", "v"):
        schedule = NoiseSchedule(0.00085, 0.012, 1000, prediction)
        alpha, sigma = schedule.alpha_sigma(500)
        assert alpha**2 + sigma**2 == pytest.approx(1)
        output = noise if prediction == "epsilon" else alpha * noise - sigma * clean
        assert torch.allclose(schedule.clean(alpha * clean + sigma * noise, output, 500), clean, atol=1e-5)
    # hand-computed: the first factor of the product is 1 - 0.00085
    assert schedule.alpha_sigma(0)[0] == pytest.approx((1 - 0.00085) ** 0.5, rel=1e-9)
    assert schedule.steps(4) == [999, 749, 499, 249]


def test_a_picture_does_not_depend_on_its_batch(host: StandaloneHost) -> None:
    together = host.sample(SampleRequest(["a dog", "a cat", "a car"], [3, 4, 5], 3, SIZE))
    alone = host.sample(SampleRequest(["a cat"], [4], 3, SIZE))
    assert torch.allclose(together[1:2], alone, atol=1e-4 * float(alone.abs().max()))
    assert not torch.allclose(together[0], together[1], atol=0.1)
    assert torch.equal(first_noise(4, (4, 8, 8)), torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(4)))


def test_guidance_mixes_both_branches_and_names_the_conditional_rows(host: StandaloneHost) -> None:
    seen: list[tuple[int, slice | None]] = []
    layer = host.layers()["unet.conv_in"]
    handle = layer.register_forward_pre_hook(lambda _, x: seen.append((len(x[0]), host.conditional_slice())))
    try:
        one = SampleRequest(["a dog", "a cat"], [1, 2], 1, SIZE)
        guided = host.sample(SampleRequest(["a dog", "a cat"], [1, 2], 1, SIZE, cfg_scale=3.0, negative_prompt="fog"))
        bound = host.sample(one)
        free = host.sample(one, conditioning=host.encode(["fog", "fog"]))
    finally:
        handle.remove()
    assert seen == [(4, slice(2, 4)), (2, None), (2, None)]
    assert host.conditional_slice() is None
    # one step from pure noise is linear in the model's output, so guidance can be checked on the result
    assert torch.allclose(guided, free + 3.0 * (bound - free), atol=1e-3 * float(guided.abs().max()))


def test_long_prompts_become_chunks_and_words_mark_padding(host: StandaloneHost) -> None:
    conditioning = host.encode(["a dog", "a dog " * 50])
    assert conditioning.context.shape == (2, 154, 32)
    assert conditioning.token_mask[0].nonzero().flatten().tolist() == [0, 1, 2, 3, 77, 78]  # start a dog end, start end
    assert conditioning.token_mask[1, :77].all()
    assert conditioning.token_mask[1, 77:].sum() == 27  # start, 25 words, end


def test_guidance_with_a_prompt_longer_than_the_negative(host: StandaloneHost) -> None:
    assert host.sample(SampleRequest(["a dog " * 50], [1], 1, SIZE, cfg_scale=2.0)).shape == (1, 4, 8, 8)


def test_sdxl_sees_both_encoders_pooled_text_and_size(tiny_sdxl: Path) -> None:
    host = load_checkpoint(tiny_sdxl)
    conditioning = host.encode(["a dog"])
    assert conditioning.context.shape == (1, 77, 32 + 64)
    ids, _ = host.text.tokens(["a dog"])
    with torch.no_grad():
        states = host.text.encoders[0](input_ids=ids, output_hidden_states=True).hidden_states
        padded = torch.where(torch.arange(77) > 3, 0, ids)
        second = host.text.encoders[1](input_ids=padded, output_hidden_states=True)
    assert torch.allclose(conditioning.context, torch.cat([states[-2], second.hidden_states[-2]], -1), atol=1e-5)
    penultimate: list[Tensor] = []
    layers = host.text.encoders[1].text_model.encoder.layers
    handle = layers[-2].register_forward_hook(
        lambda _, x, out: penultimate.append(out if torch.is_tensor(out) else out[0])
    )
    host.encode(["a dog"])
    handle.remove()
    assert torch.equal(conditioning.context[..., 32:], penultimate[0])
    assert conditioning.vector is not None
    assert torch.allclose(conditioning.vector, second.text_embeds, atol=1e-5)
    seen: list[Tensor] = []
    handle = host.layers()["unet.add_embedding.linear_1"].register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    latents = host.sample(SampleRequest(["a dog"], [1], 1, (128, 64), cfg_scale=2.0))
    handle.remove()
    assert latents.shape == (1, 4, 8, 16)
    assert torch.allclose(seen[0][1, :64], conditioning.vector[0])
    assert not seen[0][0, :64].any()  # an empty negative prompt is zeros
    assert host.decode(latents).shape == (1, 64, 128, 3)


@pytest.mark.parametrize("family", ["tiny_sd1", "tiny_sd2", "tiny_sdxl"])
def test_every_family_samples_and_decodes(family: str, request: pytest.FixtureRequest) -> None:
    host: DiffusionHost = load_checkpoint(request.getfixturevalue(family))
    latents = host.sample(SampleRequest(["a dog"], [1], 2, SIZE, cfg_scale=2.0))
    assert torch.isfinite(latents).all()
    pictures = host.decode(latents)
    assert (pictures.shape, pictures.dtype) == ((1, 64, 64, 3), torch.uint8)


def update(host: StandaloneHost, name: str, seed: int, dense: bool = False) -> Delta:
    shape = LayerShape.of(host.layers()[name].weight.shape)
    generator = torch.Generator().manual_seed(seed)
    up, down = (
        torch.randn(shape.out_features, 3, generator=generator),
        0.1 * torch.randn(3, shape.in_features, generator=generator) * shape.in_features**-0.5,
    )
    return Dense(up @ down) if dense else LowRank(up, down)


TOUCHED = (
    "text_encoder.text_model.encoder.layers.0.mlp.fc2",
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
    "unet.down_blocks.0.downsamplers.0.conv",
    "unet.mid_block.attentions.0.proj_in",
    "unet.up_blocks.1.resnets.0.conv1",
)


def test_two_loras_add_up_like_patched_weights(tiny_sd1: Path) -> None:
    host = load_checkpoint(tiny_sd1)
    request = SampleRequest(["a dog"], [1], 2, SIZE)
    plain = host.sample(request)
    first = {name: update(host, name, 1) for name in TOUCHED}
    second = {name: update(host, name, 2, dense=True) for name in TOUCHED[1:]}
    with inject(host.layers(), first, 0.7), inject(host.layers(), second, -0.4):
        ours = host.sample(request)
    assert torch.equal(host.sample(request), plain)
    for name, module in host.layers().items():
        for deltas, weight in ((first, 0.7), (second, -0.4)):
            if name in deltas:
                module.weight.data += weight * deltas[name].dense().view_as(module.weight)
    patched = host.sample(request)
    assert not torch.allclose(patched, plain, atol=1e-2 * float(plain.abs().max()))
    assert torch.allclose(ours, patched, atol=1e-4 * float(patched.abs().max()))


def test_same_seed_same_latents_and_nothing_global_moves(host: StandaloneHost) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    request = SampleRequest(["a dog"], [11], 2, SIZE)
    assert torch.equal(host.sample(request), host.sample(request))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.is_grad_enabled()


def test_ready_restores_modes_after_an_error(host: StandaloneHost) -> None:
    host.unet.mid_block.train()

    def fail() -> None:
        with host.ready():
            assert not host.unet.mid_block.training
            assert not torch.is_grad_enabled()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert host.unet.mid_block.training
    assert not host.unet.training
    assert torch.is_grad_enabled()
    host.unet.eval()


def test_cancel_comes_out_of_the_running_step(host: StandaloneHost) -> None:
    class StopAtTwo:
        steps = 0

        def phase(self, phase: Phase, steps: int, detail: str = "") -> None: ...

        def message(self, text: str) -> None: ...

        def step(self, text: str = "") -> None:
            self.steps += 1
            if self.steps == 2:
                raise Cancelled

    progress = StopAtTwo()
    with pytest.raises(Cancelled):
        host.sample(SampleRequest(["a dog"], [1], 5, SIZE), progress)
    assert progress.steps == 2
    assert host.conditional_slice() is None


@pytest.mark.parametrize(
    ("request_", "key"),
    [
        (SampleRequest(["a"], [1], 2, (60, 64)), "size"),
        (SampleRequest(["a"], [1], 0, SIZE), "steps"),
        (SampleRequest(["a"], [1], 2, SIZE, sampler="magic"), "sampler"),
    ],
)
def test_wrong_requests(host: StandaloneHost, request_: SampleRequest, key: str) -> None:
    with pytest.raises(InputError) as caught:
        host.sample(request_)
    assert (caught.value.code, caught.value.key) == ("bad-option", key)
