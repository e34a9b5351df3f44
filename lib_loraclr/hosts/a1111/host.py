"""`A1111Host`: the WebUI's loaded checkpoint as the `DiffusionHost` that captures and pictures run on.

Every model call is the WebUI's own (`apply_model`, with its optimisations, precision, offloading and hooks). The steps
between the calls are those of the standalone host, so the same prompts and seeds give the same features everywhere, one
model call a step suffices without guidance, and the WebUI's random numbers stay untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from modules import devices, processing, prompt_parser, sd_hijack, sd_models, shared
from torch import Tensor, nn

from lib_loraclr.core.errors import InputError, LoraclrError
from lib_loraclr.hosts.a1111.model import describe, text_models
from lib_loraclr.hosts.a1111.networks import bare_model, base_weight
from lib_loraclr.hosts.a1111.open_clip import open_clip_layers, separated
from lib_loraclr.hosts.a1111.sizes import with_size
from lib_loraclr.hosts.ports import ModelInfo, Progress, SampleRequest
from lib_loraclr.hosts.samplers import SAMPLERS, Schedule, initial_noise
from lib_loraclr.hosts.webui.conditioning import Conditioning
from lib_loraclr.hosts.webui.layers import text_layers, unet_layers
from lib_loraclr.hosts.webui.words import RunningWords, word_mask

LATENT_FACTOR = 8


class A1111Host:
    """The model that is loaded now; a job that finds another one in its place ends with "checkpoint-switched"."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._checkpoint = model.sd_checkpoint_info
        self._info = describe(model, hashed=True)
        self._texts = text_models(model)
        self._words = RunningWords()
        self._rows: slice | None = None
        self._layers = unet_layers(model.model.diffusion_model)
        self._separated = {
            number: open_clip_layers(number, text.encoder)
            for number, text in enumerate(self._texts) if text.open_clip
        }  # fmt: skip
        for number, text in enumerate(self._texts):
            self._layers |= self._separated[number] if text.open_clip else text_layers(number, text.encoder)

    @property
    def info(self) -> ModelInfo:
        """Name, family, hash, native size, device, precision and the settings that change the model."""
        return self._info

    def layers(self) -> Mapping[str, nn.Module]:
        """Every linear layer and convolution of UNet and text encoders by its canonical name."""
        return self._layers

    def base_weight(self, name: str) -> Tensor:
        """Float32 CPU copy of a layer's weight without the LoRAs that the WebUI may have added."""
        if name not in self._layers:
            raise InputError("unknown-layer", f"{self._info.name} has no layer {name}.", file=self._info.name, key=name)
        return base_weight(self._layers[name])

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The WebUI's own conditioning, with its emphasis, clip skip and embeddings."""
        self._check()
        size = self._info.native_size
        texts = prompt_parser.SdConditioning(list(prompts), width=size, height=size)
        words = word_mask(self._texts[0].tokenizer, prompts)
        calls = self._words.by_chunk([text.called for text in self._texts], words)
        with torch.no_grad(), devices.autocast(), calls:
            return Conditioning.of(self.model.get_learned_conditioning(texts), words)

    def word_rows(self) -> Tensor | None:
        """While the text encoder or `unet_call` runs: (batch, tokens), False on padding; None otherwise."""
        return self._words.current

    def conditional_rows(self) -> slice | None:
        """Batch rows of the conditional branch in the UNet call that is running; None: all."""
        return self._rows

    def unet_call(self, conditioning: Conditioning) -> None:
        """Cross-attention keys and values see nothing but the conditioning: call just these layers."""
        self._check()
        with torch.no_grad(), self._precision(), self._words.whole(conditioning.words):
            places: dict[torch.device, Tensor] = {}  # offloaded layers stay where they are; one tensor for all of them
            for name, layer in self._layers.items():
                if name.endswith((".attn2.to_k", ".attn2.to_v")):
                    weight: Any = layer.weight
                    if weight.device not in places:
                        places[weight.device] = conditioning.context.to(weight.device, self._info.dtype)
                    layer(places[weight.device])

    def sample(self, request: SampleRequest, progress: Progress | None = None, *, conditioning: Any = None) -> Tensor:
        """Latents (n, c, h, w), float32; cfg_scale 1 runs the conditional branch only, else both, that one last."""
        self._check()
        noise = initial_noise(request, getattr(self.model, "latent_channels", 4), LATENT_FACTOR)
        condition: Conditioning = self.encode(request.prompts) if conditioning is None else conditioning
        rows, both = len(condition), condition
        if request.cfg_scale != 1.0:
            both = self._encode_negative(request, rows).joined(condition)
        both = with_size(self.model, both, request.size)
        schedule = Schedule(
            getattr(self.model, "linear_start", 0.00085), getattr(self.model, "linear_end", 0.012),
            getattr(self.model, "num_timesteps", 1000), "v" if self.model.parameterization == "v" else "epsilon",
        )  # fmt: skip
        call = self._denoiser(both, request)

        def denoise(latents: Tensor, step: int) -> Tensor:
            self._check()
            if len(both) == rows:
                output = call(latents, step, None)
            else:
                free, bound = call(torch.cat([latents, latents]), step, slice(rows, 2 * rows)).chunk(2)
                output = free + request.cfg_scale * (bound - free)
            if progress is not None:
                progress.step()
            return schedule.clean(latents, output, step)

        with torch.no_grad(), self.model.ema_scope(), self._precision():
            return SAMPLERS[request.sampler](schedule, denoise, noise.to(devices.device), request.steps)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures through the WebUI's VAE, uint8 (n, h, w, 3) on the CPU."""
        with torch.no_grad():
            decoded = processing.decode_latent_batch(
                self.model, latents.to(devices.device), target_device=devices.cpu, check_for_nans=True
            )
        pictures = torch.stack(list(decoded)).float()
        return ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Scope of a job: the bare model on its device; LoRAs, tiling, device and modules as before on exit."""
        self._check()
        devices.torch_gc()
        with ExitStack() as stack:
            stack.callback(devices.torch_gc)
            stack.enter_context(_on_device(self.model))
            stack.enter_context(bare_model(self.model))
            hijack = sd_hijack.model_hijack
            stack.callback(hijack.apply_circular, hijack.circular_enabled)
            hijack.apply_circular(False)
            for number, layers in self._separated.items():
                stack.enter_context(separated(number, self._texts[number].encoder, layers))
            stack.enter_context(torch.no_grad())
            yield

    def _denoiser(self, both: Conditioning, request: SampleRequest) -> Callable[[Tensor, int, slice | None], Tensor]:
        width, height = request.size
        shape = (len(both), getattr(self.model, "latent_channels", 4), height // LATENT_FACTOR, width // LATENT_FACTOR)
        image = processing.txt2img_image_conditioning(
            self.model, torch.zeros(shape, device=devices.device), width, height
        )
        context = both.context.to(devices.device)
        condition: dict[str, Any] = {"c_crossattn": [context], "c_concat": [image]}
        if both.vector is not None:
            condition = {"crossattn": context, "vector": both.vector.to(devices.device), "c_concat": [image]}

        def call(latents: Tensor, step: int, rows: slice | None) -> Tensor:
            self._rows = rows
            try:
                times = torch.full((len(latents),), step, device=latents.device)
                return self.model.apply_model(latents, times, cond=dict(condition)).float()
            finally:
                self._rows = None

        return call

    def _encode_negative(self, request: SampleRequest, rows: int) -> Conditioning:
        width, height = request.size
        texts = [request.negative_prompt] * rows
        prompts = prompt_parser.SdConditioning(texts, is_negative_prompt=True, width=width, height=height)
        with torch.no_grad(), devices.autocast():
            value = self.model.get_learned_conditioning(prompts)
        return Conditioning.of(value, word_mask(self._texts[0].tokenizer, texts))

    def _precision(self) -> Any:
        return devices.without_autocast() if devices.unet_needs_upcast else devices.autocast()

    def _check(self) -> None:
        loaded = sd_models.model_data.sd_model
        if loaded is not self.model or loaded.sd_checkpoint_info is not self._checkpoint:
            raise LoraclrError(
                "checkpoint-switched", "Another checkpoint was loaded while the job ran; nothing was written.",
                file=self._info.name,
            )  # fmt: skip


@contextmanager
def _on_device(model: Any) -> Iterator[None]:
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
