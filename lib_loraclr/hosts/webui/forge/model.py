"""What Forge knows of its loaded model, without loading anything by looking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from modules import sd_models, shared
from torch import Tensor, nn

from lib_loraclr.core.errors import InputError
from lib_loraclr.formats.hashes import file_sha256
from lib_loraclr.hosts.webui.native import native_size
from lib_loraclr.model import ModelInfo


def loaded_model() -> Any | None:
    """The engine in memory; before the first generation Forge has a stand-in there, after a failed load nothing."""
    engine = sd_models.model_data.sd_model
    return engine if getattr(engine, "forge_objects", None) is not None else None


def require_model() -> Any:
    """The engine of the chosen checkpoint, loaded if need be. Raises InputError."""
    try:
        sd_models.forge_model_reload()
    except Exception as error:
        raise InputError("no-checkpoint", f"The checkpoint could not be loaded: {error}.") from error
    engine = loaded_model()
    if engine is None:
        raise InputError("no-checkpoint", "No checkpoint is loaded; choose one at the top of the page.")
    if family(engine) is None or engine.is_inpaint:
        message = f"{name_of(engine)} is not an SD1, SD2 or SDXL checkpoint for text to image; it cannot be captured."
        raise InputError("unsupported-model", message, file=name_of(engine))
    unet = engine.forge_objects_original.unet.model
    if any(packed(parameter) for parameter in unet.parameters()):
        message = "Weights packed into 4 or fewer bits cannot be captured; set Diffusion in Low Bits to Automatic."
        raise InputError("unsupported-model", message, file=name_of(engine))
    return engine


def family(engine: Any) -> str | None:
    """ "sd1", "sd2", "sdxl" or None."""
    kinds = (("sdxl", "is_sdxl"), ("sd2", "is_sd2"), ("sd1", "is_sd1"))
    return next((name for name, flag in kinds if getattr(engine, flag, False)), None)


def describe(engine: Any, *, hashed: bool = False) -> ModelInfo:
    """The engine's facts; `hashed` computes the file's hash where Forge has not."""
    checkpoint, unet = engine.sd_checkpoint_info, engine.forge_objects_original.unet
    sha256 = checkpoint.sha256 or ""
    if hashed and not sha256:
        sha256 = file_sha256(Path(checkpoint.filename))
    kind, model = family(engine) or "unknown", unet.model
    native = native_size(Path(checkpoint.filename), kind, model.predictor.prediction_type == "v_prediction")
    return ModelInfo(
        name_of(engine), kind, sha256, native, torch.device(unet.load_device), model.computation_dtype, _variant(model)
    )


def text_encoders(engine: Any) -> list[tuple[str, nn.Module]]:
    """(name inside the text patcher, transformers' model) of every CLIP encoder, in order."""
    stage = engine.forge_objects_original.clip.cond_stage_model
    names = [name for name in ("clip_l", "clip_g") if hasattr(stage, name)]
    return [(f"{name}.transformer", getattr(stage, name).transformer) for name in names]


def text_engines(engine: Any) -> list[Any]:
    """What cuts prompts into chunks and knows the clip skip, one per encoder."""
    names = ("text_processing_engine", "text_processing_engine_l", "text_processing_engine_g")
    return [getattr(engine, name) for name in names if hasattr(engine, name)]


def packed(parameter: Tensor) -> bool:
    """Whether a weight's values cannot be read off its tensor (bitsandbytes, gguf)."""
    return hasattr(parameter, "bnb_quantized") or getattr(parameter, "gguf_cls", None) is not None


def name_of(engine: Any) -> str:
    """The checkpoint's name."""
    return str(engine.sd_checkpoint_info.name_for_extra)


def _variant(unet: Any) -> str:
    skip = int(getattr(shared.opts, "CLIP_stop_at_last_layers", 1))
    parts = [f"clip skip {skip}"] if skip > 1 else []
    if unet.storage_dtype != unet.computation_dtype:
        parts.append(f"stored as {unet.storage_dtype}")
    return ", ".join(parts)
