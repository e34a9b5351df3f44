"""What Forge knows of its model, without loading anything by looking: the one in memory, and the one that is chosen."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from backend import memory_management
from modules import sd_models
from torch import Tensor, nn

from lib_loraclr.core.errors import InputError
from lib_loraclr.formats.keys.family import family_of_checkpoint
from lib_loraclr.formats.safetensors_io import SafetensorsFile
from lib_loraclr.hosts.webui.checkpoint import (
    NOT_TEXT_TO_IMAGE,
    flagged_family,
    model_info,
    native_size,
    no_checkpoint,
    unsupported,
)
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
        raise no_checkpoint()
    if flagged_family(engine) is None or engine.is_inpaint:
        raise unsupported(engine, NOT_TEXT_TO_IMAGE)
    unet = engine.forge_objects_original.unet.model
    if any(packed(parameter) for parameter in unet.parameters()):
        message = "Weights packed into 4 or fewer bits cannot be captured; set Diffusion in Low Bits to Automatic."
        raise unsupported(engine, message)
    return engine


def describe(engine: Any, *, hashed: bool = False) -> ModelInfo:
    """The engine's facts; `hashed` computes the file's hash where Forge has not."""
    unet, family = engine.forge_objects_original.unet, flagged_family(engine) or "unknown"
    path, model = Path(engine.sd_checkpoint_info.filename), unet.model
    native = native_size(path, family, model.predictor.prediction_type == "v_prediction")
    apart = model.storage_dtype != model.computation_dtype
    variant = [f"stored as {model.storage_dtype}"] if apart else []
    return model_info(engine, family, native, unet.load_device, model.computation_dtype, variant, hashed)


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


def current_info() -> ModelInfo | None:
    """The chosen checkpoint, which the next job loads unless it is in memory."""
    engine, chosen = loaded_model(), selected_checkpoint()
    if engine is not None and chosen in (None, engine.sd_checkpoint_info):
        return describe(engine)
    return None if chosen is None else _describe_file(chosen)


def selected_checkpoint() -> Any | None:
    """Forge's entry of the checkpoint that the user chose; None before there is one."""
    return sd_models.model_data.forge_loading_parameters.get("checkpoint_info")


def _describe_file(chosen: Any) -> ModelInfo | None:
    """What the chosen file's header says, without loading it; None where it does not say enough."""
    path = Path(chosen.filename)
    try:
        family = _family(path, path.stat().st_mtime_ns)
    except OSError:
        return None
    if family == "unknown":
        return None
    device = torch.device(memory_management.get_torch_device())
    native = native_size(path, family, v_prediction=False)
    return ModelInfo(str(chosen.name_for_extra), family, chosen.sha256 or "", native, device, torch.float32)


@lru_cache(maxsize=16)
def _family(path: Path, changed: int) -> str:
    try:
        return family_of_checkpoint(SafetensorsFile.open(path).tensors)
    except (InputError, OSError, ValueError):
        return "unknown"
