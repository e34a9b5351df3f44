"""The deterministic sampler of the probability-flow ODE: DDIM (Song et al. 2021).

It works on the prediction of the clean latent x0, so epsilon and v models share it:
x_t = alpha x0 + sigma eps; v = alpha eps - sigma x0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lib_loraclr.core.errors import InputError
from lib_loraclr.model import SampleRequest

LATENT_FACTOR, LATENT_CHANNELS = 8, 4  # of SD1, SD2 and SDXL: pixels to a latent cell along one side, values in it
Denoise = Callable[[Tensor, int], Tensor]  # latents, timestep -> prediction of x0


class NoiseSchedule:
    """Variance-preserving noise schedule, scaled-linear betas, float64."""

    def __init__(self, start: float, end: float, steps: int, prediction: str) -> None:
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
        self.sqrt_alphas_cumprod = torch.cumprod(1 - betas, 0).sqrt()
        self.prediction = prediction

    @classmethod
    def of_sigmas(cls, sigmas: Tensor) -> NoiseSchedule:
        """From noise levels sigma / alpha per training step, as k-diffusion counts; the model predicts x0 itself."""
        schedule = cls.__new__(cls)
        schedule.sqrt_alphas_cumprod = (1 + sigmas.detach().to("cpu", torch.float64) ** 2) ** -0.5
        schedule.prediction = "x0"
        return schedule

    def alpha_sigma(self, step: int) -> tuple[float, float]:
        """(alpha, sigma) of training step `step`; -1 is the clean picture."""
        alpha = float(self.sqrt_alphas_cumprod[step]) if step >= 0 else 1.0
        return alpha, max(0.0, 1.0 - alpha * alpha) ** 0.5

    def clean(self, latents: Tensor, output: Tensor, step: int) -> Tensor:
        """x0 from the model's output."""
        alpha, sigma = self.alpha_sigma(step)
        return alpha * latents - sigma * output if self.prediction == "v" else (latents - sigma * output) / alpha

    def steps(self, count: int) -> list[int]:
        """`count` training steps from the noisiest down ("trailing" spacing: begins where the noise was drawn)."""
        total = len(self.sqrt_alphas_cumprod)
        if not 1 <= count <= total:
            raise InputError("bad-option", f"Steps must be between 1 and {total}, not {count}.", key="steps")
        return [round(total - k * total / count) - 1 for k in range(count)]


def ddim(schedule: NoiseSchedule, denoise: Denoise, latents: Tensor, count: int) -> Tensor:
    """DDIM with eta 0."""
    steps = schedule.steps(count)
    for step, following in zip(steps, [*steps[1:], -1], strict=True):
        (alpha, sigma), (alpha_next, sigma_next) = schedule.alpha_sigma(step), schedule.alpha_sigma(following)
        clean = denoise(latents, step)
        noise = (latents - alpha * clean) / sigma
        latents = alpha_next * clean + sigma_next * noise
    return latents


SAMPLERS = {"ddim": ddim}


def first_noise(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """Noise of one picture, drawn on the CPU: the same on every device and in every batch."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def initial_noise(request: SampleRequest, channels: int, factor: int) -> Tensor:
    """(n, channels, h, w) on the CPU for pictures that are `factor` times as large as their latents.

    Raises InputError "bad-option" for a sampler that does not exist and a size that does not divide.
    """
    if request.sampler not in SAMPLERS:
        known = ", ".join(SAMPLERS)
        raise InputError("bad-option", f"There is no sampler {request.sampler}; known: {known}.", key="sampler")
    if len(request.seeds) != len(request.prompts):
        raise ValueError(f"{len(request.prompts)} prompts but {len(request.seeds)} seeds")
    width, height = request.size
    if width % factor or height % factor or min(width, height) < factor:
        raise InputError(
            "bad-option", f"Width and height must be multiples of {factor}, not {width} x {height}.", key="size"
        )
    shape = (channels, height // factor, width // factor)
    return torch.stack([first_noise(seed, shape) for seed in request.seeds])
