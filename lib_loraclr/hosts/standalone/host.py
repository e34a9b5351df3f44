"""`StandaloneHost`: a checkpoint as the `DiffusionHost` that captures, merges and pictures run on."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib_loraclr.core.errors import InputError
from lib_loraclr.hosts.conditioning import Conditioning
from lib_loraclr.model import ModelInfo, Progress, SampleRequest
from lib_loraclr.samplers import SAMPLERS, NoiseSchedule, first_noise, initial_noise

from .architecture import Architecture
from .regional import regional_sampling
from .text import TextStack


class StandaloneHost:
    """One loaded checkpoint. Not for two threads at once: `conditional_slice` describes the call that is running."""

    def __init__(
        self, name: str, sha256: str, architecture: Architecture, unet: nn.Module, encoders: Sequence[nn.Module],
        vae: nn.Module, tokenizer_folder: Path, prediction: str | None,
    ) -> None:  # fmt: skip
        self.architecture, self.unet, self.vae = architecture, unet, vae
        self.text = TextStack(architecture.family, encoders, tokenizer_folder)
        weight = next(unet.parameters())
        self._info = ModelInfo(name, architecture.family, sha256, architecture.native_size, weight.device, weight.dtype)
        self._layers = _named_layers(unet, encoders)
        self._rows: slice | None = None
        self.prediction = prediction or self._ask_prediction()
        self.schedule = NoiseSchedule(*architecture.beta_range, architecture.train_steps, self.prediction)

    @property
    def info(self) -> ModelInfo:
        """Name, family, hash, native size, device and dtype."""
        return self._info

    @property
    def _factor(self) -> int:
        """Pixels to a latent cell, along one side."""
        return 2 ** (len(self.architecture.vae["block_out_channels"]) - 1)

    def layers(self) -> Mapping[str, nn.Module]:
        """Every linear layer and convolution of UNet and text encoders by its canonical name."""
        return self._layers

    def base_weight(self, name: str) -> Tensor:
        """Float32 CPU copy of a layer's weight. Raises InputError "unknown-layer"."""
        if name not in self._layers:
            raise InputError("unknown-layer", f"{self._info.name} has no layer {name}.", file=self._info.name, key=name)
        weight: Any = self._layers[name].weight
        return weight.detach().to("cpu", torch.float32, copy=True)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of every prompt; longer prompts are cut into chunks of 75 tokens, all rows equally many."""
        return self.text.encode(list(prompts), self._info.device)

    def token_mask(self) -> Tensor | None:
        """While the text encoder or K/V layers run: (batch, tokens), False on padding; None otherwise."""
        return self.text.running.current

    @torch.no_grad()
    def run_cross_attention_kv(self, conditioning: Conditioning) -> None:
        """Cross-attention keys and values see nothing but the conditioning: call just these layers."""
        context = conditioning.context.to(self._info.dtype)
        with self.text.running.of(conditioning.token_mask):
            for name, layer in self._layers.items():
                if name.endswith((".attn2.to_k", ".attn2.to_v")):
                    layer(context)

    @torch.no_grad()
    def sample(self, request: SampleRequest, progress: Progress | None = None, *, conditioning: Any = None) -> Tensor:
        """Latents (n, c, h, w), float32; cfg_scale 1 runs the conditional branch only, else both, that one last."""
        noise = initial_noise(request, self.architecture.unet["in_channels"], self._factor).to(self._info.device)
        condition = self.encode(request.prompts) if conditioning is None else conditioning
        rows = len(condition)
        regions = regional_sampling(self, request, noise.shape[-2:])
        guided = request.cfg_scale != 1.0 if regions is None else regions.guided
        branches = self._branches(condition, request) if guided else condition
        extra = self._size_embedding(branches, request.size)
        context = branches.context.to(self._info.dtype)
        numbers = count()

        def denoise(latents: Tensor, step: int) -> Tensor:
            doubled = torch.cat([latents, latents]) if guided else latents
            with nullcontext() if regions is None else regions.step(next(numbers)):
                output = self._unet(doubled, step, context, extra, slice(rows, 2 * rows) if guided else None)
            if guided:
                free, bound = output.chunk(2)
                scale = request.cfg_scale if regions is None else regions.scale(bound)
                output = free + scale * (bound - free)
            if progress is not None:
                progress.step()
            return self.schedule.clean(latents, output, step)

        with nullcontext() if regions is None else regions.running():
            return SAMPLERS[request.sampler](self.schedule, denoise, noise, request.steps)

    def sqrt_alphas_cumprod(self) -> Tensor:
        """Of every timestep, (timesteps,) float64."""
        return self.schedule.sqrt_alphas_cumprod

    def predict_x0(self, latents: Tensor, timesteps: Sequence[int], prompts: Sequence[str]) -> Tensor:
        """x0 (n, c, h, w), float32, of the conditional branch, in the grad mode that is on."""
        condition = self.text.encode(list(prompts), self._info.device)
        height, width = (side * self._factor for side in latents.shape[-2:])
        extra = self._size_embedding(condition, (width, height))
        latents = latents.to(self._info.device, torch.float32)
        times = torch.tensor(list(timesteps), device=self._info.device)
        output = self.unet(
            latents.to(self._info.dtype), times, condition.context.to(self._info.dtype), added_cond_kwargs=extra
        ).sample.float()
        return torch.stack([self.schedule.clean(*row) for row in zip(latents, output, timesteps, strict=True)])

    def conditional_slice(self) -> slice | None:
        """Batch rows of the conditional branch in the UNet call that is running; None: all."""
        return self._rows

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures, uint8 (n, h, w, 3) on the CPU. The VAE runs in float32: SDXL's overflows in half precision."""
        scaled = latents.to(self._info.device, torch.float32) / self.architecture.latent_scale
        decode: Any = self.vae.decode
        pictures = torch.cat([decode(one[None]).sample for one in scaled])
        return ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()

    @contextmanager
    def ready(self) -> Generator[None]:
        """Scope of a job: evaluation mode, no gradients; modes of modules and gradients as before on exit."""
        modules = [m for root in (self.unet, self.vae, *self.text.encoders) for m in root.modules()]
        modes = [(module, module.training) for module in modules]
        try:
            with torch.no_grad():
                for module in modules:
                    module.training = False
                yield
        finally:
            for module, mode in modes:
                module.training = mode

    def _unet(
        self, latents: Tensor, step: int, context: Tensor, extra: dict[str, Tensor] | None, rows: slice | None
    ) -> Tensor:
        self._rows = rows
        try:
            times = torch.full((len(latents),), step, device=latents.device)
            output = self.unet(latents.to(self._info.dtype), times, context, added_cond_kwargs=extra)
        finally:
            self._rows = None
        return output.sample.float()

    def _branches(self, condition: Conditioning, request: SampleRequest) -> Conditioning:
        free = self.encode([request.negative_prompt] * len(condition))
        if self._info.family == "sdxl" and not request.negative_prompt:
            free = free.zeros()
        return free.joined(condition)

    def _size_embedding(self, branches: Conditioning, size: tuple[int, int]) -> dict[str, Tensor] | None:
        """SDXL's pooled text and sizes: original, crop offset 0, target."""
        if branches.vector is None:
            return None
        width, height = size
        times = torch.tensor([[height, width, 0, 0, height, width]], device=self._info.device, dtype=self._info.dtype)
        return {"text_embeds": branches.vector.to(self._info.dtype), "time_ids": times.expand(len(branches), -1)}

    @torch.no_grad()
    def _ask_prediction(self) -> str:
        """An epsilon model answers pure noise with that noise, a v model does not: compare directions."""
        size = 8 * 2 ** (len(self.architecture.unet["block_out_channels"]) - 1)
        noise = first_noise(0, (self.architecture.unet["in_channels"], size, size))[None].to(self._info.device)
        last = self.architecture.train_steps - 1
        answer = self._unet(noise, last, self.encode([""]).context.to(self._info.dtype), None, None)
        return "epsilon" if torch.cosine_similarity(noise.flatten(), answer.flatten(), dim=0) > 0.5 else "v"


def _named_layers(unet: nn.Module, encoders: Sequence[nn.Module]) -> dict[str, nn.Module]:
    named: dict[str, nn.Module] = {}
    for number, encoder in enumerate(encoders):
        stem = "text_encoder" if number == 0 else f"text_encoder_{number + 1}"
        for name, module in encoder.named_modules():
            if isinstance(module, nn.Linear):
                # transformers 5 dropped the level `text_model` of CLIPTextModel; the canonical names keep it
                inner = name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}"
                named[f"{stem}.{inner}"] = module
    for name, module in unet.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            named[f"unet.{name}"] = module
    return named
