"""`PatchedHost`: what Forge and its relatives do the same way: a model behind patchers that a memory manager moves.

A job works on the engine's original patchers, which carry no LoRA; the WebUI itself takes LoRAs out of the weights when
it loads them and puts them back for the next generation.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lib_loraclr.hosts.conditioning import Conditioning
from lib_loraclr.hosts.webui.catalogue import lora_extension
from lib_loraclr.hosts.webui.gradients import copied, gradients
from lib_loraclr.hosts.webui.host import Denoiser, WebuiHost
from lib_loraclr.hosts.webui.layers import text_layers, unet_layers
from lib_loraclr.model import ModelInfo
from lib_loraclr.samplers import LATENT_CHANNELS, LATENT_FACTOR, NoiseSchedule

STALE = "replaced"  # equals no list of LoRAs


@dataclass(frozen=True)
class Backend:
    """The WebUI's memory manager, with what it does before and after sampling with a patcher, and for tiling."""

    manager: Any
    prepare: Callable[[Any, Tensor], None]
    cleanup: Callable[[Any], None]
    circular: Callable[[Any, bool], None]


class PatchedHost(WebuiHost):
    """One loaded engine. Not for two threads at once: `conditional_slice` describes the call that is running.

    `encoders` are (name inside the text patcher, transformers' model), `sigmas` the noise level of every training step.
    Subclasses implement `_backup`.
    """

    def __init__(
        self, engine: Any, backend: Backend, info: ModelInfo, encoders: Sequence[tuple[str, nn.Module]],
        tokenizer: Any, sigmas: Tensor,
    ) -> None:  # fmt: skip
        super().__init__(engine)
        self._backend = backend
        self._info, self._tokenizer, self._sigmas = info, tokenizer, sigmas
        original = engine.forge_objects_original
        self._unet = original.unet
        unet = self._unet.model.diffusion_model
        self._layers = unet_layers(unet)
        self._owners: dict[int, tuple[Any, str]] = {  # layer -> its patcher and parameter name there
            id(module): (self._unet, f"diffusion_model.{name}.weight") for name, module in unet.named_modules()
        }
        for number, (stem, encoder) in enumerate(encoders):
            self._layers |= text_layers(number, encoder)
            for name, module in encoder.named_modules():
                self._owners[id(module)] = original.clip.patcher, f"{stem}.{name}.weight"
        self._called = [encoder for _, encoder in encoders]
        self._texts, self._diffusion = self._called, unet
        self._schedule = NoiseSchedule.of_sigmas(sigmas)

    def base_weight(self, name: str) -> Tensor:
        """Float32 CPU copy of a layer's weight without the LoRAs that the WebUI may have added."""
        module: Any = self.module_of(name)
        kept = self._backup(*self._owners[id(module)])
        weight = (module.weight if kept is None else kept).detach().to("cpu", torch.float32, copy=True)
        scale = getattr(module, "scale_weight", None)
        return weight if scale is None else weight * scale.detach().to("cpu", torch.float32)

    @contextmanager
    def ready(self) -> Generator[None]:
        """Scope of a job: the engine without LoRAs, tiling and leftover settings; all as before on exit."""
        self.check()
        engine = self.model
        with ExitStack() as stack:
            stack.callback(self._backend.manager.soft_empty_cache)
            stack.callback(setattr, engine, "forge_objects", engine.forge_objects)
            engine.forge_objects = engine.forge_objects_original.shallow_copy()
            self._plain_settings(stack)
            stack.enter_context(torch.no_grad())
            yield

    def _denoiser(self, both: Conditioning, size: tuple[int, int]) -> Denoiser:
        width, height = size
        shape = (len(both), LATENT_CHANNELS, height // LATENT_FACTOR, width // LATENT_FACTOR)
        device = self._info.device
        self._load(shape)
        model = self._unet.model
        condition: dict[str, Any] = {"c_crossattn": both.context.to(device)}
        if both.vector is not None:
            condition["y"] = _with_size(both.vector, size).to(device)

        def call(latents: Tensor, steps: Sequence[int]) -> Tensor:
            sigma = self._sigmas[list(steps)].to(device)
            # these models' latents are not scaled down to variance 1
            return model.apply_model(latents * (1 + sigma.view(-1, 1, 1, 1) ** 2) ** 0.5, sigma, **condition)

        return call

    def _text_scope(self) -> AbstractContextManager[Any]:
        if torch.is_grad_enabled():  # weights that are stood in for must not be moved
            with torch.no_grad():
                self._backend.manager.load_model_gpu(self.model.forge_objects.clip.patcher)
        return nullcontext()

    @contextmanager
    def _model_scope(self) -> Generator[None]:
        side = max(8, self._info.native_size // LATENT_FACTOR)
        self._load((1, LATENT_CHANNELS, side, side))
        try:
            yield
        finally:
            self._backend.cleanup(self._unet)

    def _gradients(self, roots: Sequence[nn.Module]) -> AbstractContextManager[None]:
        return gradients(roots, copied(roots)) if torch.is_grad_enabled() else nullcontext()

    def _load(self, shape: Sequence[int]) -> None:
        with torch.no_grad():
            self._backend.prepare(self._unet, torch.zeros(tuple(shape), device=self._info.device))

    def _place(self, layer: nn.Module) -> torch.device:
        return self._info.device  # an offloaded layer fetches its weight itself

    def _backup(self, patcher: Any, key: str) -> Tensor | None:
        """What a weight was before the WebUI merged LoRAs into it; None where it has not."""
        raise NotImplementedError

    def _plain_settings(self, stack: ExitStack) -> None:
        """Put what the last picture left on the engine aside; `stack` puts it back."""
        engine = self.model
        stack.callback(self._backend.circular, engine, engine.tiling_enabled)
        self._backend.circular(engine, False)


def forget(engine: Any | None, name: str) -> None:
    """Make the WebUI read and merge LoRAs anew: it recognises them by file name and weight alone."""
    clear = getattr(getattr(lora_extension(), "load_lora_state_dict", None), "cache_clear", None)
    if clear is not None:
        clear()
    if engine is None:
        return
    engine.current_lora_hash = STALE
    for patcher in (engine.forge_objects_original.unet, engine.forge_objects_original.clip.patcher):
        if hasattr(patcher, "lora_loader"):  # Forge's; the others' patchers are new for every list of LoRAs
            patcher.lora_loader.loaded_hash = STALE


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
