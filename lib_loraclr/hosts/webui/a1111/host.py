"""`A1111Host`: the checkpoint that the WebUI has loaded, a model of the original code base on its device."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from modules import devices, processing, sd_hijack, sd_models, shared
from torch import Tensor, nn

from lib_loraclr.hosts.conditioning import Conditioning, with_size
from lib_loraclr.hosts.webui.a1111.model import (
    current_info,
    describe,
    loaded_model,
    require_model,
    text_models,
)
from lib_loraclr.hosts.webui.a1111.networks import bare_model, base_weight, forget
from lib_loraclr.hosts.webui.a1111.open_clip import open_clip_layers, separated
from lib_loraclr.hosts.webui.a1111.regional import A1111Regional
from lib_loraclr.hosts.webui.application import WebuiFamily
from lib_loraclr.hosts.webui.checkpoint import text_root
from lib_loraclr.hosts.webui.gradients import gradients, held
from lib_loraclr.hosts.webui.host import Denoiser, WebuiHost
from lib_loraclr.hosts.webui.layers import text_layers, unet_layers
from lib_loraclr.samplers import LATENT_CHANNELS, LATENT_FACTOR, NoiseSchedule


class A1111Host(WebuiHost):
    """One loaded model. Not for two threads at once: `conditional_slice` describes the call that is running."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._info = describe(model, hashed=True)
        texts = text_models(model)
        self._encoders = [text.encoder for text in texts]
        self._called, self._tokenizer = [text.called for text in texts], texts[0].tokenizer
        self._texts, self._diffusion = [text_root(model)], model.model.diffusion_model
        self._layers = unet_layers(self._diffusion)
        self._separated = {n: open_clip_layers(n, text.encoder) for n, text in enumerate(texts) if text.open_clip}
        for number, text in enumerate(texts):
            self._layers |= self._separated[number] if text.open_clip else text_layers(number, text.encoder)
        self._schedule = NoiseSchedule(
            getattr(model, "linear_start", 0.00085), getattr(model, "linear_end", 0.012),
            getattr(model, "num_timesteps", 1000), "v" if model.parameterization == "v" else "epsilon",
        )  # fmt: skip

    def base_weight(self, name: str) -> Tensor:
        """Float32 CPU copy of a layer's weight without the LoRAs that the WebUI may have added."""
        return base_weight(self.module_of(name))

    @contextmanager
    def ready(self) -> Generator[None]:
        """Scope of a job: the bare model on its device; LoRAs, tiling, device and modules as before on exit."""
        self.check()
        devices.torch_gc()
        with ExitStack() as stack:
            stack.callback(devices.torch_gc)
            stack.enter_context(_on_device(self.model))
            stack.enter_context(bare_model(self.model))
            hijack = sd_hijack.model_hijack
            stack.callback(hijack.apply_circular, hijack.circular_enabled)
            hijack.apply_circular(False)
            stack.enter_context(self.text_layers_apart())
            stack.enter_context(torch.no_grad())
            yield

    @contextmanager
    def text_layers_apart(self) -> Generator[None]:
        """Scope in which OpenCLIP's text encoders call every layer of `layers`, so that hooks reach them."""
        with ExitStack() as stack:
            for number, layers in self._separated.items():
                stack.enter_context(separated(number, self._encoders[number], layers))
            yield

    def _denoiser(self, both: Conditioning, size: tuple[int, int]) -> Denoiser:
        both = with_size(self.model, both, size)
        width, height = size
        shape = (len(both), LATENT_CHANNELS, height // LATENT_FACTOR, width // LATENT_FACTOR)
        empty = torch.zeros(shape, device=devices.device)
        image = processing.txt2img_image_conditioning(self.model, empty, width, height)
        context = both.context.to(devices.device)
        condition: dict[str, Any] = {"c_crossattn": [context], "c_concat": [image]}
        if both.vector is not None:
            condition = {"crossattn": context, "vector": both.vector.to(devices.device), "c_concat": [image]}

        def call(latents: Tensor, steps: Sequence[int]) -> Tensor:
            times = torch.tensor(list(steps), device=latents.device)
            output = self.model.apply_model(latents, times, cond=dict(condition)).float()
            return torch.stack([self._schedule.clean(*row) for row in zip(latents, output, steps, strict=True)])

        return call

    def _text_scope(self) -> AbstractContextManager[Any]:
        return devices.autocast()

    @contextmanager
    def _model_scope(self) -> Generator[None]:
        precision = devices.without_autocast() if devices.unet_needs_upcast else devices.autocast()
        with self.model.ema_scope(), precision:
            yield

    def _gradients(self, roots: Sequence[nn.Module]) -> AbstractContextManager[None]:
        return gradients(roots, held if self.model.lowvram else None)


@contextmanager
def _on_device(model: Any) -> Generator[None]:
    """A model that was unloaded to the CPU comes for the job and goes again; offloaded parts are moved by the WebUI."""
    parameter = next(model.model.diffusion_model.parameters())
    away = not model.lowvram and parameter.device.type != torch.device(shared.device).type
    if away:
        sd_models.send_model_to_device(model)
    try:
        yield
    finally:
        if away:
            sd_models.send_model_to_cpu(model)


A1111 = WebuiFamily("A1111", loaded_model, require_model, current_info, A1111Host, forget, A1111Regional)
