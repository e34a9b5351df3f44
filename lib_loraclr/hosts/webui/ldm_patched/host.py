"""`LdmPatchedHost`: the model that a WebUI of the `ldm_patched` family has loaded, through its patchers."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from ldm_patched.modules import model_management
from modules_forge.forge_sampler import sampling_cleanup, sampling_prepare
from modules_forge.forge_util import apply_circular_forge
from torch import Tensor

from lib_loraclr.hosts.webui.ldm_patched.model import describe, text_encoders, text_root, tokenizer
from lib_loraclr.hosts.webui.patched_host import PatchedHost


class LdmPatchedHost(PatchedHost):
    """One loaded model. Not for two threads at once: `conditional_slice` describes the call that is running."""

    def __init__(self, model: Any) -> None:
        sigmas = model.forge_objects_original.unet.model.model_sampling.sigmas
        super().__init__(model, describe(model, hashed=True), text_encoders(model), tokenizer(model), sigmas)
        self._texts = [text_root(model)]

    def _backup(self, patcher: Any, key: str) -> Tensor | None:
        # The patcher that merged a LoRA keeps what was there: a clone of this one, as long as it is loaded.
        for loaded in model_management.current_loaded_models:
            clone = loaded.model
            if clone is not None and clone.model is patcher.model and key in clone.backup:
                kept = clone.backup[key]
                return getattr(kept, "weight", kept)
        return None

    def _load_texts(self) -> None:
        model_management.load_model_gpu(self.model.forge_objects.clip.patcher)

    def _prepare(self, latents: Tensor) -> None:
        sampling_prepare(self._unet, latents)

    def _cleanup(self) -> None:
        sampling_cleanup(self._unet)

    def _empty_cache(self) -> None:
        model_management.soft_empty_cache()

    def _plain_settings(self, stack: ExitStack) -> None:
        model = self.model
        stack.callback(apply_circular_forge, model, model.tiling_enabled)
        apply_circular_forge(model, False)
