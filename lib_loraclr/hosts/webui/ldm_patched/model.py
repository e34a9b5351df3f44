"""What a WebUI of the `ldm_patched` family knows of its model, without loading or hashing anything by looking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from modules import sd_models, shared
from torch import nn

from lib_loraclr.core.errors import InputError
from lib_loraclr.formats.hashes import file_sha256
from lib_loraclr.hosts.webui.native import native_size
from lib_loraclr.model import ModelInfo

ENCODERS = ("clip_l", "clip_h", "clip_g")  # in SDXL's order


def loaded_model() -> Any | None:
    """The model in memory; None before the first one. `shared.sd_model` would load it."""
    model = sd_models.model_data.sd_model
    return model if getattr(model, "forge_objects", None) is not None else None


def require_model() -> Any:
    """The model, loaded if need be. Raises InputError "no-checkpoint" and "unsupported-model"."""
    model = shared.sd_model
    if getattr(model, "forge_objects", None) is None:
        raise InputError("no-checkpoint", "No checkpoint is loaded; choose one at the top of the page.")
    if family(model) is None or model.forge_objects_original.unet.model.diffusion_model.in_channels != 4:
        message = f"{name_of(model)} is not an SD1, SD2 or SDXL checkpoint for text to image; it cannot be captured."
        raise InputError("unsupported-model", message, file=name_of(model))
    return model


def family(model: Any) -> str | None:
    """ "sd1", "sd2", "sdxl" or None. By its text encoders: these WebUIs call SD2 models SD1."""
    kinds = {("clip_l",): "sd1", ("clip_h",): "sd2", ("clip_l", "clip_g"): "sdxl"}
    return kinds.get(tuple(stem.partition(".")[0] for stem, _ in text_encoders(model)))


def describe(model: Any, *, hashed: bool = False) -> ModelInfo:
    """The model's facts; `hashed` computes the file's hash where the WebUI has not."""
    checkpoint, unet = model.sd_checkpoint_info, model.forge_objects_original.unet
    sha256 = checkpoint.sha256 or ""
    if hashed and not sha256:
        sha256 = file_sha256(Path(checkpoint.filename))
    kind, inner = family(model) or "unknown", unet.model
    native = native_size(Path(checkpoint.filename), kind, getattr(model, "parameterization", "eps") == "v")
    stored = inner.get_dtype()
    computed = inner.manual_cast_dtype or stored
    return ModelInfo(
        name_of(model), kind, sha256, native, torch.device(unet.load_device), computed, _variant(stored, computed)
    )


def text_encoders(model: Any) -> list[tuple[str, nn.Module]]:
    """(name inside the text patcher, transformers' model) of every CLIP encoder, in order."""
    stage = getattr(model.forge_objects_original.clip, "cond_stage_model", None)
    return [(f"{name}.transformer", getattr(stage, name).transformer) for name in ENCODERS if hasattr(stage, name)]


def text_root(model: Any) -> Any:
    """The module that encodes prompts, with all its encoders."""
    return model.conditioner if getattr(model, "is_sdxl", False) else model.cond_stage_model


def tokenizer(model: Any) -> Any:
    """The wrapper that cuts prompts into chunks; SDXL's two cut alike."""
    root = text_root(model)
    return root.embedders[0] if getattr(model, "is_sdxl", False) else root


def name_of(model: Any) -> str:
    """The checkpoint's name."""
    return str(model.sd_checkpoint_info.name_for_extra)


def _variant(stored: torch.dtype, computed: torch.dtype) -> str:
    skip = int(getattr(shared.opts, "CLIP_stop_at_last_layers", 1))
    parts = [f"clip skip {skip}"] if skip > 1 else []
    if stored != computed:
        parts.append(f"stored as {stored}")
    return ", ".join(parts)
