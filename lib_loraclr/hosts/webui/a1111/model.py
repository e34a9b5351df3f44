"""What the WebUI knows of its loaded model, without loading or hashing anything by looking."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from modules import devices, sd_models, sd_unet, shared
from torch import nn

from lib_loraclr.core.errors import InputError
from lib_loraclr.formats.hashes import file_sha256
from lib_loraclr.model import ModelInfo

LATENT_FACTOR = 8


@dataclass(frozen=True)
class TextModel:
    """One text encoder: its module, the part that is called once per chunk, the WebUI's wrapper with the tokenizer."""

    encoder: Any
    called: nn.Module
    tokenizer: Any
    open_clip: bool


def loaded_model() -> Any | None:
    """The model in memory; None before the first one. `shared.sd_model` would load it."""
    return sd_models.model_data.sd_model


def require_model() -> Any:
    """The model, loaded if need be. Raises InputError "no-checkpoint" and "unsupported-model"."""
    model = shared.sd_model
    if model is None or getattr(model, "sd_checkpoint_info", None) is None:
        raise InputError("no-checkpoint", "No checkpoint is loaded; choose one at the top of the page.")
    if sd_unet.current_unet is not None:
        message = "An accelerated UNet replaces the model's own; set SD Unet to None in the settings for the merge."
        raise InputError("unsupported-model", message)
    if family(model) is None:
        message = f"{_name(model)} is neither SD1, SD2 nor SDXL; merges cannot be captured on it."
        raise InputError("unsupported-model", message, file=_name(model))
    return model


def family(model: Any) -> str | None:
    """ "sd1", "sd2", "sdxl" or None."""
    kinds = (("sdxl", "is_sdxl"), ("sd2", "is_sd2"), ("sd1", "is_sd1"))
    return next((name for name, flag in kinds if getattr(model, flag, False)), None)


def describe(model: Any, *, hashed: bool = False) -> ModelInfo:
    """The model's facts; `hashed` computes the file's hash where the WebUI has not."""
    checkpoint = model.sd_checkpoint_info
    sha256 = checkpoint.sha256 or ""
    if hashed and not sha256:
        sha256 = file_sha256(Path(checkpoint.filename))
    native = getattr(model, "image_size", None)
    native = native * LATENT_FACTOR if isinstance(native, int) else 1024
    return ModelInfo(
        _name(model), family(model) or "unknown", sha256, native, torch.device(devices.device), devices.dtype_unet,
        _variant(),
    )  # fmt: skip


def text_root(model: Any) -> Any:
    """The module that encodes prompts, with all its encoders."""
    return model.conditioner if getattr(model, "is_sdxl", False) else model.cond_stage_model


def text_models(model: Any) -> list[TextModel]:
    """The CLIP encoders, SDXL's two in order."""
    root = text_root(model)
    embedders = list(root.embedders) if getattr(model, "is_sdxl", False) else [root]
    found: list[TextModel] = []
    for embedder in embedders:
        inner = getattr(embedder, "wrapped", None)
        if hasattr(inner, "transformer"):
            found.append(TextModel(inner.transformer, inner.transformer, embedder, open_clip=False))
        elif hasattr(getattr(inner, "model", None), "transformer"):
            transformer = inner.model.transformer
            found.append(TextModel(transformer, transformer.resblocks[0], embedder, open_clip=True))
    if not found:
        raise InputError("unsupported-model", f"{_name(model)} has a text encoder that is not CLIP.", file=_name(model))
    return found


def _name(model: Any) -> str:
    return str(model.sd_checkpoint_info.name_for_extra)


def _variant() -> str:
    skip = int(getattr(shared.opts, "CLIP_stop_at_last_layers", 1))
    parts = [f"clip skip {skip}"] if skip > 1 else []
    if skip > 1 and getattr(shared.opts, "sdxl_clip_l_skip", False):
        parts.append("also SDXL")
    if getattr(devices, "fp8", False):
        parts.append("fp8")
    return ", ".join(parts)
