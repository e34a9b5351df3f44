"""`ForgeHost`: the engine that Forge has loaded, through its patchers and memory manager."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from backend import memory_management
from backend.sampling.sampling_function import sampling_cleanup, sampling_prepare
from modules import shared
from modules_forge.utils import apply_circular_forge
from torch import Tensor

from lib_loraclr.hosts.webui.forge.model import describe, text_encoders, text_engines
from lib_loraclr.hosts.webui.patched_host import PatchedHost


class ForgeHost(PatchedHost):
    """One loaded engine. Not for two threads at once: `conditional_slice` describes the call that is running."""

    def __init__(self, engine: Any) -> None:
        model = engine.forge_objects_original.unet.model
        info, tokenizer = describe(engine, hashed=True), text_engines(engine)[0]
        super().__init__(engine, info, text_encoders(engine), tokenizer, model.predictor.sigmas)

    def _backup(self, patcher: Any, key: str) -> Tensor | None:
        # Forge's patchers have a loader that keeps it; Neo's keep it themselves, all clones in one
        kept = getattr(patcher, "lora_loader", patcher).backup.get(key)
        return getattr(kept, "weight", kept)

    def _conditioner(self) -> Callable[[Any], object]:
        whole = self.model.get_learned_conditioning
        inner = getattr(whole, "__wrapped__", None)  # what torch.inference_mode() decorates
        return whole if inner is None or not torch.is_grad_enabled() else partial(inner, self.model)

    def _load_texts(self) -> None:
        memory_management.load_model_gpu(self.model.forge_objects.clip.patcher)

    def _prepare(self, latents: Tensor) -> None:
        sampling_prepare(self._unet, latents)

    def _cleanup(self) -> None:
        sampling_cleanup(self._unet)

    def _empty_cache(self) -> None:
        memory_management.soft_empty_cache()

    def _plain_settings(self, stack: ExitStack) -> None:
        engine = self.model
        stack.callback(apply_circular_forge, engine, engine.tiling_enabled)
        apply_circular_forge(engine, False)
        for text in text_engines(engine):
            stack.callback(setattr, text, "clip_skip", text.clip_skip)
        engine.set_clip_skip(int(getattr(shared.opts, "CLIP_stop_at_last_layers", 1)))
