"""The `ldm_patched` family (reForge, Classic and what is built like them): A1111's model with `forge_objects` on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ldm_patched.modules import model_management
from modules import sd_models, shared
from modules_forge.forge_sampler import sampling_cleanup, sampling_prepare
from modules_forge.forge_util import apply_circular_forge
from torch import Tensor, nn

from lib_loraclr.hosts.webui.application import WebuiFamily
from lib_loraclr.hosts.webui.checkpoint import (
    NOT_TEXT_TO_IMAGE,
    model_info,
    native_size,
    no_checkpoint,
    text_root,
    unsupported,
)
from lib_loraclr.hosts.webui.forge.regional import ForgeRegional
from lib_loraclr.hosts.webui.patched_host import Backend, PatchedHost, forget
from lib_loraclr.model import ModelInfo
from lib_loraclr.samplers import LATENT_CHANNELS

ENCODERS = ("clip_l", "clip_h", "clip_g")  # in SDXL's order


class LdmPatchedHost(PatchedHost):
    """One loaded model. Not for two threads at once: `conditional_slice` describes the call that is running."""

    def __init__(self, model: Any) -> None:
        sigmas = model.forge_objects_original.unet.model.model_sampling.sigmas
        backend = Backend(model_management, sampling_prepare, sampling_cleanup, apply_circular_forge)
        super().__init__(model, backend, describe(model, hashed=True), text_encoders(model), _tokenizer(model), sigmas)
        self._texts = [text_root(model)]

    def _backup(self, patcher: Any, key: str) -> Tensor | None:
        # The patcher that merged a LoRA keeps what was there: a clone of this one, as long as it is loaded.
        for loaded in model_management.current_loaded_models:
            clone = loaded.model
            if clone is not None and clone.model is patcher.model and key in clone.backup:
                kept = clone.backup[key]
                return getattr(kept, "weight", kept)
        return None


def loaded_model() -> Any | None:
    """The model in memory; None before the first one. `shared.sd_model` would load it."""
    model = sd_models.model_data.sd_model
    return model if getattr(model, "forge_objects", None) is not None else None


def require_model() -> Any:
    """The model, loaded if need be. Raises InputError "no-checkpoint" and "unsupported-model"."""
    model = shared.sd_model
    if getattr(model, "forge_objects", None) is None:
        raise no_checkpoint()
    channels = model.forge_objects_original.unet.model.diffusion_model.in_channels
    if family(model) is None or channels != LATENT_CHANNELS:
        raise unsupported(model, NOT_TEXT_TO_IMAGE)
    return model


def family(model: Any) -> str | None:
    """ "sd1", "sd2", "sdxl" or None. By its text encoders: these WebUIs call SD2 models SD1."""
    families: dict[tuple[str, ...], str] = {("clip_l",): "sd1", ("clip_h",): "sd2", ("clip_l", "clip_g"): "sdxl"}
    return families.get(tuple(stem.partition(".")[0] for stem, _ in text_encoders(model)))


def describe(model: Any, *, hashed: bool = False) -> ModelInfo:
    """The model's facts; `hashed` computes the file's hash where the WebUI has not."""
    unet, kind = model.forge_objects_original.unet, family(model) or "unknown"
    path = Path(model.sd_checkpoint_info.filename)
    native = native_size(path, kind, getattr(model, "parameterization", "eps") == "v")
    stored = unet.model.get_dtype()
    computed = unet.model.manual_cast_dtype or stored
    variant = [f"stored as {stored}"] if stored != computed else []
    return model_info(model, kind, native, unet.load_device, computed, variant, hashed)


def text_encoders(model: Any) -> list[tuple[str, nn.Module]]:
    """(name inside the text patcher, transformers' model) of every CLIP encoder, in order."""
    stage = getattr(model.forge_objects_original.clip, "cond_stage_model", None)
    return [(f"{name}.transformer", getattr(stage, name).transformer) for name in ENCODERS if hasattr(stage, name)]


def _tokenizer(model: Any) -> Any:
    """The wrapper that cuts prompts into chunks; SDXL's two cut alike."""
    root = text_root(model)
    return root.embedders[0] if getattr(model, "is_sdxl", False) else root


def _info() -> ModelInfo | None:
    model = loaded_model()
    return None if model is None else describe(model)


LDM_PATCHED = WebuiFamily(
    "WebUI on ldm_patched", loaded_model, require_model, _info, LdmPatchedHost, forget, ForgeRegional
)
