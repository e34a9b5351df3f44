"""Single-file checkpoints in the original (LDM) layout <-> diffusers and transformers state dicts.

Everything is derived from the names in the file: number of levels, of residual blocks, which text encoders there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from lib_loraclr.core.errors import InputError
from lib_loraclr.formats.keys.open_clip import open_clip_to_transformers, transformers_to_open_clip
from lib_loraclr.formats.keys.unet_layout import UNetLayout
from lib_loraclr.formats.keys.vae import is_attention_matrix, vae_levels, vae_to_diffusers, vae_to_ldm
from lib_loraclr.formats.safetensors_io import SafetensorsFile

_UNET, _VAE = "model.diffusion_model.", "first_stage_model."
_CLIP1, _CLIP_XL = "cond_stage_model.transformer.", "conditioner.embedders.0.transformer."
_OPEN2, _OPEN_XL = "cond_stage_model.model.", "conditioner.embedders.1.model."
_POSITION_IDS = "text_model.embeddings.position_ids"


@dataclass(frozen=True)
class LdmCheckpoint:
    """State dicts by component, in diffusers' and transformers' names (`text_model.…` in both text encoders).

    `text_encoder_2` is empty but for SDXL; `other` keeps what belongs to no component (schedule, EMA, position ids)
    under the names of the file. An SD2 text encoder has all layers of the file, also the last, which SD2 does not use.
    """

    family: str
    layout: UNetLayout
    unet: dict[str, Tensor]
    vae: dict[str, Tensor]
    text_encoder: dict[str, Tensor]
    text_encoder_2: dict[str, Tensor] = field(default_factory=dict)
    other: dict[str, Tensor] = field(default_factory=dict)


def read_checkpoint(path: Path) -> LdmCheckpoint:
    """Read and split a `.safetensors` checkpoint. Raises InputError for a bad file or one that is no checkpoint."""
    file = SafetensorsFile.open(Path(path))
    _require_components(file.tensors, file.path)
    return split_checkpoint({key: file.read(key) for key in file.tensors}, path=file.path)


def split_checkpoint(tensors: Mapping[str, Tensor], *, path: Path | None = None) -> LdmCheckpoint:
    """Split and rename a whole checkpoint. InputError ("not-a-checkpoint") naming `path` if a part is missing."""
    _require_components(tensors, path)
    groups, other = _group(tensors)
    layout = UNetLayout.from_ldm(groups[_UNET])
    if layout is None:
        raise _not_a_checkpoint("has a UNet without output blocks", path)
    unet: dict[str, Tensor] = {}
    for name, tensor in groups[_UNET].items():
        module, _, parameter = name.rpartition(".")
        ours = layout.to_diffusers(module)
        if ours is None:
            raise _not_a_checkpoint(f"has a UNet parameter of unknown name, '{_UNET}{name}'", path)
        unet[f"{ours}.{parameter}"] = tensor
    text, text_2 = _text_encoders(groups, other)
    family = "sdxl" if text_2 else "sd2" if _OPEN2 in groups else "sd1"
    return LdmCheckpoint(family, layout, unet, _vae(groups[_VAE]), text, text_2, other)


def join_checkpoint(checkpoint: LdmCheckpoint) -> dict[str, Tensor]:
    """The way back: one state dict with the names and shapes of the original layout."""
    result = dict(checkpoint.other)
    for name, tensor in checkpoint.unet.items():
        module, _, parameter = name.rpartition(".")
        target = checkpoint.layout.to_ldm(module)
        if target is None:
            raise ValueError(f"{name} has no place in an LDM checkpoint")
        result[f"{_UNET}{target}.{parameter}"] = tensor
    levels = vae_levels(list(checkpoint.vae))
    for name, tensor in checkpoint.vae.items():
        conv = is_attention_matrix(name) and tensor.dim() == 2
        result[_VAE + vae_to_ldm(name, levels)] = tensor[:, :, None, None] if conv else tensor
    if checkpoint.family == "sd2":
        text = {_OPEN2 + name: tensor for name, tensor in transformers_to_open_clip(checkpoint.text_encoder).items()}
    else:
        prefix = _CLIP_XL if checkpoint.family == "sdxl" else _CLIP1
        text = {prefix + name: tensor for name, tensor in checkpoint.text_encoder.items()}
    second = transformers_to_open_clip(checkpoint.text_encoder_2)
    return result | text | {_OPEN_XL + name: tensor for name, tensor in second.items()}


def _group(tensors: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {}
    other: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        prefix = next((p for p in (_UNET, _VAE, _CLIP1, _CLIP_XL, _OPEN2, _OPEN_XL) if key.startswith(p)), None)
        if prefix is None:
            other[key] = tensor
        else:
            groups.setdefault(prefix, {})[key[len(prefix) :]] = tensor
    return groups, other


def _text_encoders(
    groups: Mapping[str, Mapping[str, Tensor]], other: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(text_encoder, text_encoder_2); what has no place goes to `other`."""
    first: dict[str, Tensor] = {}
    second: dict[str, Tensor] = {}
    for prefix in (_CLIP1, _CLIP_XL):
        for name, tensor in groups.get(prefix, {}).items():
            ours = name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"
            if ours == _POSITION_IDS:
                other[prefix + name] = tensor
            else:
                first[ours] = tensor
    for prefix in (_OPEN2, _OPEN_XL):
        converted, rest = open_clip_to_transformers(groups.get(prefix, {}))
        other.update({prefix + name: tensor for name, tensor in rest.items()})
        if prefix == _OPEN2:
            if "text_projection.weight" in converted:  # SD2's text model has none
                other[f"{prefix}text_projection"] = converted.pop("text_projection.weight").T.contiguous()
            first.update(converted)
        else:
            second.update(converted)
    return first, second


def _vae(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    levels = vae_levels(list(tensors))
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        ours = vae_to_diffusers(name, levels)
        result[ours] = tensor[:, :, 0, 0].contiguous() if is_attention_matrix(ours) and tensor.dim() == 4 else tensor
    return result


def _require_components(keys: Mapping[str, object], path: Path | None) -> None:
    parts = {"UNet": (_UNET,), "VAE": (_VAE,), "text encoder": (_CLIP1, _CLIP_XL, _OPEN2)}
    missing = [title for title, starts in parts.items() if not any(key.startswith(starts) for key in keys)]
    if missing:
        raise _not_a_checkpoint(f"has no {' and no '.join(missing)} in the original single-file layout", path)


def _not_a_checkpoint(what: str, path: Path | None) -> InputError:
    name = path.name if path else "The checkpoint"
    message = f"{name} is not a Stable Diffusion checkpoint that can be used: it {what}."
    return InputError("not-a-checkpoint", message, file=str(path) if path else None)
