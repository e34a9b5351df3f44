"""`ForgeHost`: the engine that Forge has loaded, through its patchers and memory manager."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from backend import memory_management
from backend.sampling.sampling_function import sampling_cleanup, sampling_prepare
from modules_forge.utils import apply_circular_forge
from torch import Tensor

from lib_loraclr.hosts.webui.application import WebuiFamily
from lib_loraclr.hosts.webui.checkpoint import clip_skip
from lib_loraclr.hosts.webui.forge.model import (
    current_info,
    describe,
    loaded_model,
    require_model,
    text_encoders,
    text_engines,
)
from lib_loraclr.hosts.webui.forge.regional import ForgeRegional
from lib_loraclr.hosts.webui.patched_host import Backend, PatchedHost, forget


class ForgeHost(PatchedHost):
    """One loaded engine. Not for two threads at once: `conditional_slice` describes the call that is running."""

    def __init__(self, engine: Any) -> None:
        model = engine.forge_objects_original.unet.model
        info, tokenizer = describe(engine, hashed=True), text_engines(engine)[0]
        backend = Backend(memory_management, sampling_prepare, sampling_cleanup, apply_circular_forge)
        super().__init__(engine, backend, info, text_encoders(engine), tokenizer, model.predictor.sigmas)

    def _backup(self, patcher: Any, key: str) -> Tensor | None:
        # Forge's patchers have a loader that keeps it; Neo's keep it themselves, all clones in one
        kept = getattr(patcher, "lora_loader", patcher).backup.get(key)
        return getattr(kept, "weight", kept)

    def _conditioner(self) -> Callable[[Any], object]:
        whole = self.model.get_learned_conditioning
        inner = getattr(whole, "__wrapped__", None)  # what torch.inference_mode() decorates
        return whole if inner is None or not torch.is_grad_enabled() else partial(inner, self.model)

    def _plain_settings(self, stack: ExitStack) -> None:
        super()._plain_settings(stack)
        engine = self.model
        for text in text_engines(engine):
            stack.callback(setattr, text, "clip_skip", text.clip_skip)
        engine.set_clip_skip(clip_skip())


FORGE = WebuiFamily("Forge", loaded_model, require_model, current_info, ForgeHost, forget, ForgeRegional)
