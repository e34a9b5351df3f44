"""`WebuiHost`: what the hosts of all WebUIs do the same way around the model calls that each makes in its own.

Every model call is the WebUI's own, with its optimisations, precision, offloading and hooks. The steps between the
calls are those of the standalone host: the same prompts and seeds give the same features everywhere, without guidance
one model call a step suffices, and the WebUI's random numbers stay untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from modules import devices, processing, prompt_parser, sd_models
from torch import Tensor, nn

from lib_loraclr.core.errors import InputError, LoraclrError
from lib_loraclr.hosts.conditioning import CHUNK, Conditioning, RunningMask
from lib_loraclr.model import ModelInfo, Progress, SampleRequest
from lib_loraclr.samplers import LATENT_CHANNELS, LATENT_FACTOR, SAMPLERS, NoiseSchedule, initial_noise

Denoiser = Callable[[Tensor, Sequence[int]], Tensor]  # latents of all rows, training step of each -> clean latents


class WebuiHost:
    """The model that is loaded now; a job that finds another one in its place ends with "checkpoint-switched".

    Subclasses set `model`, `_info`, `_layers`, `_tokenizer` (what cuts prompts into chunks), `_called` (the modules
    that are called once per chunk), `_texts` (the modules that encode prompts), `_diffusion` (the UNet) and
    `_schedule`, and implement `_denoiser`, `_text_scope`, `_model_scope` and `_gradients`.
    """

    model: Any
    _info: ModelInfo
    _layers: dict[str, nn.Module]
    _tokenizer: Any
    _called: Sequence[nn.Module]
    _texts: Sequence[nn.Module]
    _diffusion: nn.Module
    _schedule: NoiseSchedule

    def __init__(self, model: Any) -> None:
        self.model = model
        self._checkpoint = model.sd_checkpoint_info
        self._running = RunningMask()
        self._rows: slice | None = None

    @property
    def info(self) -> ModelInfo:
        """Name, family, hash, native size, device, precision and the settings that change the model."""
        return self._info

    def layers(self) -> Mapping[str, nn.Module]:
        """Every linear layer and convolution of UNet and text encoders by its canonical name."""
        return self._layers

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The WebUI's own conditioning, with its emphasis, clip skip and embeddings."""
        with torch.no_grad():
            return self._encoded(prompts)

    def token_mask(self) -> Tensor | None:
        """While the text encoder or K/V layers run: (batch, tokens), False on padding; None otherwise."""
        return self._running.current

    def conditional_slice(self) -> slice | None:
        """Batch rows of the conditional branch in the UNet call that is running; None: all."""
        return self._rows

    def run_cross_attention_kv(self, conditioning: Conditioning) -> None:
        """Cross-attention keys and values see nothing but the conditioning: call just these layers."""
        self.check()
        with torch.no_grad(), self._model_scope(), self._running.of(conditioning.token_mask):
            places: dict[torch.device, Tensor] = {}  # offloaded layers stay where they are; one tensor for all of them
            for name, layer in self._layers.items():
                if name.endswith((".attn2.to_k", ".attn2.to_v")):
                    where = self._place(layer)
                    if where not in places:
                        places[where] = conditioning.context.to(where, self._info.dtype)
                    layer(places[where])

    def sample(self, request: SampleRequest, progress: Progress | None = None, *, conditioning: Any = None) -> Tensor:
        """Latents (n, c, h, w), float32; cfg_scale 1 runs the conditional branch only, else both, that one last."""
        self.check()
        noise = initial_noise(request, LATENT_CHANNELS, LATENT_FACTOR)
        condition: Conditioning = self.encode(request.prompts) if conditioning is None else conditioning
        rows, both = len(condition), condition
        if request.cfg_scale != 1.0:
            both = self._encode_negative(request, rows).joined(condition)
        guided = slice(rows, 2 * rows) if len(both) != rows else None

        def denoise(latents: Tensor, step: int) -> Tensor:
            self.check()
            self._rows = guided
            try:
                clean = call(latents if guided is None else torch.cat([latents, latents]), [step] * len(both)).float()
            finally:
                self._rows = None
            if guided is not None:
                free, bound = clean.chunk(2)
                clean = free + request.cfg_scale * (bound - free)
            if progress is not None:
                progress.step()
            return clean

        with torch.no_grad(), self._model_scope():
            call = self._denoiser(both, request.size)
            return SAMPLERS[request.sampler](self._schedule, denoise, noise.to(self._info.device), request.steps)

    def sqrt_alphas_cumprod(self) -> Tensor:
        """Of every timestep, (timesteps,) float64."""
        return self._schedule.sqrt_alphas_cumprod

    def predict_x0(self, latents: Tensor, timesteps: Sequence[int], prompts: Sequence[str]) -> Tensor:
        """x0 (n, c, h, w), float32, of the conditional branch, in the grad mode that is on."""
        condition = self._encoded(prompts)
        height, width = (side * LATENT_FACTOR for side in latents.shape[-2:])
        with self._model_scope():
            call = self._denoiser(condition, (width, height))
            with self._gradients([self._diffusion]):
                return call(latents.to(self._info.device, torch.float32), timesteps).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures through the WebUI's VAE, uint8 (n, h, w, 3) on the CPU."""
        self.check()
        with torch.no_grad():
            decoded = processing.decode_latent_batch(
                self.model, latents.to(self._info.device), target_device=devices.cpu, check_for_nans=True
            )
        pictures = torch.stack(list(decoded)).float()
        return ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)

    def check(self) -> None:
        """Raise LoraclrError "checkpoint-switched" when the model is no longer the one that the job began with."""
        loaded = sd_models.model_data.sd_model
        if loaded is not self.model or loaded.sd_checkpoint_info is not self._checkpoint:
            message = "Another checkpoint was loaded while the job ran; nothing was written."
            raise LoraclrError("checkpoint-switched", message, file=self._info.name)

    def module_of(self, name: str) -> nn.Module:
        """A layer by its canonical name. Raises InputError "unknown-layer"."""
        if name not in self._layers:
            raise InputError("unknown-layer", f"{self._info.name} has no layer {name}.", file=self._info.name, key=name)
        return self._layers[name]

    def _denoiser(self, both: Conditioning, size: tuple[int, int]) -> Denoiser:
        raise NotImplementedError

    def _text_scope(self) -> AbstractContextManager[Any]:
        raise NotImplementedError

    def _model_scope(self) -> AbstractContextManager[Any]:
        raise NotImplementedError

    def _gradients(self, roots: Sequence[nn.Module]) -> AbstractContextManager[None]:
        raise NotImplementedError

    def _conditioner(self) -> Callable[[Any], object]:
        return self.model.get_learned_conditioning

    def _place(self, layer: nn.Module) -> torch.device:
        weight: Any = layer.weight
        return weight.device

    def _encoded(self, prompts: Sequence[str]) -> Conditioning:
        size = (self._info.native_size, self._info.native_size)
        mask = token_mask(self._tokenizer, prompts)
        with self._running.by_chunk(self._called, mask):
            return Conditioning.of(self._learned(prompts, size), mask)

    def _encode_negative(self, request: SampleRequest, rows: int) -> Conditioning:
        texts = [request.negative_prompt] * rows
        with torch.no_grad():
            learned = self._learned(texts, request.size, negative=True)
        return Conditioning.of(learned, token_mask(self._tokenizer, texts))

    def _learned(self, texts: Sequence[str], size: tuple[int, int], *, negative: bool = False) -> object:
        self.check()
        prompts = prompt_parser.SdConditioning(list(texts), is_negative_prompt=negative, width=size[0], height=size[1])
        with self._text_scope(), self._gradients(self._texts):
            return self._conditioner()(prompts)


def token_mask(tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """(n, 77 k) on the CPU, True on start token, words and first end token; shorter prompts get padding chunks.

    `tokenizer` is the WebUI's wrapper of a text encoder: `process_texts` cuts into chunks, `id_end` ends the words.
    """
    chunked, _ = tokenizer.process_texts(list(prompts))
    rows = [[_chunk_mask(chunk.tokens, tokenizer.id_end) for chunk in chunks] for chunks in chunked]
    length = max(len(row) for row in rows)
    empty = torch.zeros(CHUNK, dtype=torch.bool)
    empty[:2] = True
    return torch.stack([torch.cat([*row, *[empty] * (length - len(row))]) for row in rows])


def _chunk_mask(tokens: Sequence[int], end: int) -> Tensor:
    last = list(tokens).index(end) if end in tokens else len(tokens) - 1
    return torch.arange(len(tokens)) <= last
