"""What every WebUI of the family says of its loaded checkpoint in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from modules import shared

from lib_loraclr.core.errors import InputError
from lib_loraclr.formats.hashes import file_sha256
from lib_loraclr.model import ModelInfo
from lib_loraclr.samplers import LATENT_FACTOR

NOT_TEXT_TO_IMAGE = "{} is not an SD1, SD2 or SDXL checkpoint for text to image; it cannot be captured."
FLAGS = (("sdxl", "is_sdxl"), ("sd2", "is_sd2"), ("sd1", "is_sd1"))


def name_of(model: Any) -> str:
    """The checkpoint's name."""
    return str(model.sd_checkpoint_info.name_for_extra)


def flagged_family(model: Any) -> str | None:
    """ "sd1", "sd2", "sdxl" or None, by the model's own flags."""
    return next((name for name, flag in FLAGS if getattr(model, flag, False)), None)


def text_root(model: Any) -> Any:
    """The module that encodes prompts, with all its encoders, in a model of the original code base."""
    return model.conditioner if getattr(model, "is_sdxl", False) else model.cond_stage_model


def no_checkpoint() -> InputError:
    """The error of a WebUI that has none."""
    return InputError("no-checkpoint", "No checkpoint is loaded; choose one at the top of the page.")


def unsupported(model: Any, message: str) -> InputError:
    """The error for a model that cannot be captured; `message` is a sentence with {} for the checkpoint's name."""
    name = name_of(model)
    return InputError("unsupported-model", message.format(name), file=name)


def model_info(
    model: Any, family: str | None, native: int, device: Any, dtype: torch.dtype, variant: Sequence[str], hashed: bool
) -> ModelInfo:
    """The facts of a model; `hashed` computes the file's hash where the WebUI has not. Clip skip joins `variant`."""
    checkpoint = model.sd_checkpoint_info
    sha256 = checkpoint.sha256 or ""
    if hashed and not sha256:
        sha256 = file_sha256(Path(checkpoint.filename))
    skip = clip_skip()
    parts = ([f"clip skip {skip}"] if skip > 1 else []) + list(variant)
    return ModelInfo(name_of(model), family or "unknown", sha256, native, torch.device(device), dtype, ", ".join(parts))


def clip_skip() -> int:
    """The user's setting; 1 is the text encoder's last layer."""
    return int(getattr(shared.opts, "CLIP_stop_at_last_layers", 1))


def native_size(checkpoint: Path, family: str, v_prediction: bool) -> int:
    """Pixels of a side that a checkpoint was made for: its .yaml file's, where there is one, else its family's.

    As the standalone host says for the same file. Cheap: the .yaml is read when it has changed.
    """
    path = checkpoint.with_suffix(".yaml")
    try:
        configured = _configured(path, path.stat().st_mtime_ns)
    except OSError:
        configured = None
    if configured is not None:
        return configured * LATENT_FACTOR
    return {"sd1": 512, "sd2": 768 if v_prediction else 512}.get(family, 1024)


@lru_cache(maxsize=16)
def _configured(path: Path, changed: int) -> int | None:
    """`model.params.image_size` (in latent pixels); None where the file does not say or is no configuration."""
    import yaml

    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        size = content["model"]["params"]["image_size"]
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError):
        return None
    return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None
