"""What the WebUI knows of its loaded model, without loading or hashing anything by looking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modules import devices, sd_models, sd_unet, shared
from torch import nn

from lib_loraclr.core.errors import InputError
from lib_loraclr.hosts.webui.checkpoint import (
    clip_skip,
    flagged_family,
    model_info,
    no_checkpoint,
    text_root,
    unsupported,
)
from lib_loraclr.model import ModelInfo
from lib_loraclr.samplers import LATENT_FACTOR


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
        raise no_checkpoint()
    if sd_unet.current_unet is not None:
        message = "An accelerated UNet replaces the model's own; set SD Unet to None in the settings for the merge."
        raise InputError("unsupported-model", message)
    if flagged_family(model) is None:
        raise unsupported(model, "{} is neither SD1, SD2 nor SDXL; merges cannot be captured on it.")
    return model


def describe(model: Any, *, hashed: bool = False) -> ModelInfo:
    """The model's facts; `hashed` computes the file's hash where the WebUI has not."""
    cells = getattr(model, "image_size", None)
    native = cells * LATENT_FACTOR if isinstance(cells, int) else 1024
    also = clip_skip() > 1 and getattr(shared.opts, "sdxl_clip_l_skip", False)
    variant = (["also SDXL"] if also else []) + (["fp8"] if getattr(devices, "fp8", False) else [])
    family = flagged_family(model)
    return model_info(model, family, native, devices.device, devices.dtype_unet, variant, hashed)


def current_info() -> ModelInfo | None:
    """The checkpoint in memory; None before the first one."""
    model = loaded_model()
    return None if model is None else describe(model)


def text_models(model: Any) -> list[TextModel]:
    """The CLIP encoders, SDXL's two in order."""
    root = text_root(model)
    embedders = list(root.embedders) if getattr(model, "is_sdxl", False) else [root]
    found: list[TextModel] = []
    for embedder in embedders:
        inner: Any = getattr(embedder, "wrapped", None)
        if hasattr(inner, "transformer"):
            found.append(TextModel(inner.transformer, inner.transformer, embedder, open_clip=False))
        elif hasattr(getattr(inner, "model", None), "transformer"):
            transformer = inner.model.transformer
            found.append(TextModel(transformer, transformer.resblocks[0], embedder, open_clip=True))
    if not found:
        raise unsupported(model, "{} has a text encoder that is not CLIP.")
    return found
