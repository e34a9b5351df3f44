"""What every host must do that lets gradients through, checked against the standalone host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lib_loraclr.core.deltas import LowRank
from lib_loraclr.distill.train import Student
from lib_loraclr.hosts.standalone import StandaloneHost
from lib_loraclr.model import DifferentiableHost, SampleRequest
from lib_loraclr.samplers import first_noise

LAYERS = (
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
    "text_encoder.text_model.encoder.layers.1.mlp.fc1",
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v",
    "unet.mid_block.resnets.0.conv1",
)
STEPS, PROMPTS = (999, 20, 430), ("a cat", "a (red:1.2) dog on a chair", "")


def modules(plain: StandaloneHost) -> list[nn.Module]:
    return [m for root in (plain.unet, *plain.text.encoders) for m in root.modules()]


def leftovers(plain: StandaloneHost) -> tuple[Any, ...]:
    """What a call with gradients might leave on the model and in torch."""
    weights = [p for m in modules(plain) for p in m._parameters.values() if p is not None]
    return (
        [id(p) for p in weights], [p.requires_grad for p in weights], [p.grad is None for p in weights],
        sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules(plain)),
        torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_rng_state().tolist(),
    )  # fmt: skip


@contextmanager
def inference_weights(plain: StandaloneHost) -> Iterator[None]:
    """Scope in which the model's weights are those of a WebUI that loads under `torch.inference_mode`."""
    before = [(m, name, p) for m in modules(plain) for name, p in m._parameters.items() if p is not None]
    try:
        for module, name, parameter in before:
            with torch.inference_mode():
                module._parameters[name] = nn.Parameter(parameter.clone())
        yield
    finally:
        for module, name, parameter in before:
            module._parameters[name] = parameter


def learned(host: DifferentiableHost) -> tuple[Tensor, list[Tensor]]:
    """Prediction and gradients of the factors of a LoRA on `LAYERS`; the scope of the job is left in between."""
    values = torch.Generator().manual_seed(3)
    shapes = {name: host.layers()[name].weight.flatten(1).shape for name in LAYERS}
    deltas = {
        name: LowRank(0.3 * torch.randn(s[0], 2, generator=values), 0.3 * torch.randn(2, s[1], generator=values))
        for name, s in shapes.items()
    }
    student = Student(host.layers(), deltas, host.info.device)
    noisy = torch.stack([first_noise(seed, (4, 8, 8)) for seed in range(len(STEPS))])
    with host.ready(), torch.enable_grad():
        with student.acting():
            found = host.predict_x0(noisy, STEPS, PROMPTS)
        (found * torch.randn(found.shape, generator=values)).sum().backward()
    return found.detach(), [factor.grad for factor in student.parameters() if factor.grad is not None]


def check(open_host: Callable[[], Any], plain: StandaloneHost, *, inference: bool = False) -> None:
    """Predictions and gradients are the standalone host's, and nothing stays; `inference`: how weights were made."""
    expected, wanted = learned(plain)
    with inference_weights(plain) if inference else nullcontext():
        host = open_host()
        assert isinstance(host, DifferentiableHost)
        torch.testing.assert_close(host.sqrt_alphas_cumprod(), plain.sqrt_alphas_cumprod(), rtol=1e-5, atol=1e-6)
        before = leftovers(plain)
        found, gradients = learned(host)
        _check_first_step(host)
        assert leftovers(plain) == before
    assert len(gradients) == len(wanted) == 2 * len(LAYERS)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    for ours, theirs in zip(gradients, wanted, strict=True):
        assert theirs.norm() > 0
        assert (ours - theirs).norm() < 1e-3 * theirs.norm()


def _check_first_step(host: Any) -> None:
    """A run of one step is a prediction at the last training step, with and without gradients."""
    prompts = ["a cat", "a dog"]
    with host.ready():
        sampled = host.sample(SampleRequest(prompts, [3, 4], 1, (64, 64)))
        noise = torch.stack([first_noise(seed, (4, 8, 8)) for seed in (3, 4)])
        steps = [len(host.sqrt_alphas_cumprod()) - 1] * 2
        assert torch.equal(host.predict_x0(noise, steps, prompts), sampled)
        with torch.enable_grad():
            assert torch.equal(host.predict_x0(noise, steps, prompts), sampled)
