"""`ForgeHost`: the engine that Forge has loaded, through its patchers and memory manager.

A job works on the engine's original patchers, which carry no LoRA; Forge itself takes LoRAs out of the weights when it
loads them and puts them back for the next generation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from backend import memory_management
from backend.sampling.sampling_function import sampling_cleanup, sampling_prepare
from modules import shared
from modules_forge.utils import apply_circular_forge
from torch import Tensor, nn

from lib_loraclr.hosts.forge.model import describe, text_encoders, text_engines
from lib_loraclr.hosts.ports import SampleRequest
from lib_loraclr.hosts.samplers import Schedule
from lib_loraclr.hosts.webui.conditioning import Conditioning
from lib_loraclr.hosts.webui.host import LATENT_CHANNELS, LATENT_FACTOR, Denoiser, WebuiHost
from lib_loraclr.hosts.webui.layers import text_layers, unet_layers


class ForgeHost(WebuiHost):
    """One loaded engine. Not for two threads at once: `conditional_rows` describes the call that is running."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self._info = describe(engine, hashed=True)
        original = engine.forge_objects_original
        self._unet = original.unet
        unet = self._unet.model.diffusion_model
        self._layers = unet_layers(unet)
        self._owners: dict[int, tuple[Any, str]] = {  # layer -> its patcher and parameter name there
            id(module): (self._unet, f"diffusion_model.{name}.weight") for name, module in unet.named_modules()
        }
        encoders = text_encoders(engine)
        for number, (stem, encoder) in enumerate(encoders):
            self._layers |= text_layers(number, encoder)
            for name, module in encoder.named_modules():
                self._owners[id(module)] = original.clip.patcher, f"{stem}.{name}.weight"
        self._called = [encoder for _, encoder in encoders]
        self._attentions = [unet, *self._called]
        self._tokenizer = text_engines(engine)[0]
        self._schedule = Schedule.of_sigmas(self._unet.model.predictor.sigmas)

    def base_weight(self, name: str) -> Tensor:
        """Float32 CPU copy of a layer's weight without the LoRAs that Forge may have added."""
        module: Any = self.module_of(name)
        patcher, key = self._owners[id(module)]
        kept = patcher.lora_loader.backup.get(key)
        weight = (module.weight if kept is None else kept).detach().to("cpu", torch.float32, copy=True)
        scale = getattr(module, "scale_weight", None)
        return weight if scale is None else weight * scale.detach().to("cpu", torch.float32)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Scope of a job: the engine without LoRAs, tiling and leftover settings; all as before on exit."""
        self.check()
        engine = self.model
        with ExitStack() as stack:
            stack.callback(memory_management.soft_empty_cache)
            stack.callback(setattr, engine, "forge_objects", engine.forge_objects)
            engine.forge_objects = engine.forge_objects_original.shallow_copy()
            stack.callback(apply_circular_forge, engine, engine.tiling_enabled)
            apply_circular_forge(engine, False)
            for text in text_engines(engine):
                stack.callback(setattr, text, "clip_skip", text.clip_skip)
            engine.set_clip_skip(int(getattr(shared.opts, "CLIP_stop_at_last_layers", 1)))
            stack.enter_context(torch.no_grad())
            yield

    def _denoiser(self, both: Conditioning, request: SampleRequest) -> Denoiser:
        width, height = request.size
        shape = (len(both), LATENT_CHANNELS, height // LATENT_FACTOR, width // LATENT_FACTOR)
        device = self._info.device
        sampling_prepare(self._unet, torch.zeros(shape, device=device))
        model = self._unet.model
        condition: dict[str, Any] = {"c_crossattn": both.context.to(device)}
        if both.vector is not None:
            condition["y"] = _with_size(both.vector, request.size).to(device)

        def call(latents: Tensor, step: int) -> Tensor:
            sigma = model.predictor.sigmas[step].to(device).expand(len(latents))
            # Forge's latents are not scaled down to variance 1
            return model.apply_model(latents * (1 + sigma[0] ** 2) ** 0.5, sigma, **condition)

        return call

    def _text_scope(self) -> AbstractContextManager[Any]:
        return nullcontext()

    @contextmanager
    def _model_scope(self) -> Iterator[None]:
        side = max(8, self._info.native_size // LATENT_FACTOR)
        sampling_prepare(self._unet, torch.zeros((1, LATENT_CHANNELS, side, side), device=self._info.device))
        try:
            with torch.no_grad():
                yield
        finally:
            sampling_cleanup(self._unet)

    def _place(self, layer: nn.Module) -> torch.device:
        return self._info.device  # an offloaded layer fetches its weight itself


def _with_size(vector: Tensor, size: tuple[int, int]) -> Tensor:
    """SDXL's vector for pictures of (width, height): pooled text, then height, width, crops, height, width of 256 each.

    The sines are those of the original code base: cos and sin of position / 10000^(k / 128).
    """
    rates = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(128) / 128)
    parts = [torch.cat([torch.cos(side * rates), torch.sin(side * rates)]) for side in (size[1], size[0])]
    both = torch.cat(parts).to(vector)
    changed = vector.clone()
    changed[:, -6 * 256 : -4 * 256] = both
    changed[:, -2 * 256 :] = both
    return changed
