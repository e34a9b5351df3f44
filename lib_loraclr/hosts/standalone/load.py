"""`load_checkpoint`: from one `.safetensors` file to a `StandaloneHost`, offline."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib_loraclr.core.errors import InputError
from lib_loraclr.formats.hashes import file_sha256
from lib_loraclr.formats.ldm import LdmCheckpoint, split_checkpoint
from lib_loraclr.formats.safetensors_io import SafetensorsFile

from .architecture import Architecture, TextSize, read_architecture
from .host import StandaloneHost
from .text import END, START

TOKENIZER = Path(__file__).with_name("clip_tokenizer")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def load_checkpoint(
    path: Path | str,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "fp32",
    config: Path | str | None = None,
    prediction: str | None = None,
) -> StandaloneHost:
    """Load an SD1, SD2 or SDXL checkpoint in the original single-file layout.

    `config` is an LDM-style yaml; by default the one with the checkpoint's stem beside it, and without one the sizes
    come from the tensor shapes. `prediction` ("epsilon" or "v") overrides what file and yaml say; an SD2 checkpoint
    that says nothing is asked by a trial run. Nothing is downloaded. Raises InputError, one sentence with file and key.
    """
    path = Path(path)
    _require_packages()
    file = SafetensorsFile.open(path)
    shapes = {key: info.shape for key, info in file.tensors.items() if not key.startswith("model_ema.")}
    yaml_path = Path(config) if config is not None else path.with_suffix(".yaml")
    yaml = read_yaml(yaml_path) if config is not None or yaml_path.is_file() else None
    architecture = read_architecture(shapes, yaml, path.name, yaml_path.name)
    parts = split_checkpoint({key: file.read(key) for key in shapes}, path=path)
    kind = DTYPES[dtype] if isinstance(dtype, str) else dtype
    unet, vae, encoders = _build(parts, architecture, _text_config(yaml, yaml_path), path.name, kind)
    for module in (unet, vae, *encoders):
        module.to(device)
    return StandaloneHost(
        path.stem, file_sha256(path), architecture, unet, encoders, vae, TOKENIZER,
        prediction or architecture.prediction,
    )  # fmt: skip


def _require_packages() -> None:
    try:
        for name in ("diffusers", "transformers", "yaml"):
            import_module(name)
    except ImportError as error:
        raise InputError(
            "missing-dependency",
            f"Running a checkpoint without a WebUI needs the package {error.name}: "
            'in the folder of this project, pip install ".[standalone]" brings it.',
        ) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The model configuration beside a checkpoint. Raises InputError "unreadable-config"."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = f"{path.name} cannot be read as yaml ({error})."
        raise InputError("unreadable-config", reason, file=path.name) from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise InputError(
            "unreadable-config", f"{path.name} is not a model configuration: it has no entry `model`.", file=path.name,
            key="model",
        )  # fmt: skip
    return content


def _text_config(yaml: Mapping[str, Any] | None, yaml_path: Path) -> dict[str, Any]:
    """`config.json` of the local CLIP folder that `cond_stage_config.params.version` may name, or nothing."""
    stage = ((yaml or {}).get("model", {}).get("params") or {}).get("cond_stage_config") or {}
    version = (stage.get("params") or {}).get("version")
    if not isinstance(version, str):
        return {}
    for folder in (yaml_path.parent / version, Path(version)):
        if (folder / "config.json").is_file():
            content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            return content.get("text_config", content)
    return {}


def _build(
    parts: LdmCheckpoint, architecture: Architecture, text_config: Mapping[str, Any], file: str, dtype: torch.dtype
) -> tuple[nn.Module, nn.Module, list[nn.Module]]:
    with warnings.catch_warnings():
        # It imports all of its models, and some of these complain about a machine without CUDA.
        warnings.filterwarnings("ignore", "CUDA is not available", UserWarning)
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.device("meta"):  # no memory, no initialisation, no global random numbers
        unet = UNet2DConditionModel(**architecture.unet)
        vae = AutoencoderKL(**architecture.vae)
        given = (text_config, {})  # the yaml's folder describes the first encoder
        encoders = [_text_model(size, own) for size, own in zip(architecture.text, given, strict=False)]
    _fill(unet, parts.unet, file, "UNet", dtype)
    _fill(vae, parts.vae, file, "VAE", torch.float32)
    texts = (_first_layers(parts.text_encoder, architecture.text[0].layers), parts.text_encoder_2)
    for encoder, tensors in zip(encoders, texts, strict=False):
        _fill(encoder, tensors, file, "text encoder", dtype)
    return unet, vae, encoders


def _first_layers(tensors: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Without the layers behind number `count`: SD2 does not run the last one."""
    stem = "text_model.encoder.layers."
    return {
        key: value for key, value in tensors.items()
        if not key.startswith(stem) or int(key[len(stem) :].split(".")[0]) < count
    }  # fmt: skip


def _text_model(size: TextSize, given: Mapping[str, Any]) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    heads = int(given.get("num_attention_heads", size.heads))
    config = CLIPTextConfig(
        vocab_size=size.vocabulary, hidden_size=size.width, intermediate_size=size.inner,
        num_hidden_layers=size.layers, num_attention_heads=heads, max_position_embeddings=size.positions,
        hidden_act="gelu" if size.open_clip else "quick_gelu", projection_dim=size.projection or size.width,
        bos_token_id=START, eos_token_id=END, pad_token_id=END,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config) if size.projection else CLIPTextModel(config)


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], file: str, part: str, dtype: torch.dtype) -> None:
    """Put the tensors in place; transformers 5 dropped the `text_model.` level of CLIPTextModel."""
    own = module.state_dict()
    if part == "text encoder" and not any(key.startswith("text_model.") for key in own):
        tensors = {key.removeprefix("text_model."): value for key, value in tensors.items()}
    for key, value in own.items():
        if key not in tensors:
            if key.endswith("position_ids"):
                continue
            raise InputError("incomplete-checkpoint", f"{file} lacks {key} of the {part}.", file=file, key=key)
        if value.shape != tensors[key].shape:
            raise InputError(
                "config-mismatch",
                f"{file}: {key} of the {part} has shape {tuple(tensors[key].shape)}, but its configuration asks for "
                f"{tuple(value.shape)}.", file=file, key=key,
            )  # fmt: skip
    unknown = sorted(set(tensors) - set(own))
    if unknown:
        raise InputError(
            "unsupported-checkpoint", f"{file}: the {part} has no place for {unknown[0]}.", file=file, key=unknown[0]
        )
    module.load_state_dict({key: tensors[key].to(dtype) for key in own if key in tensors}, strict=False, assign=True)
    for name, buffer in list(module.named_buffers()):
        if buffer.is_meta and name.endswith("position_ids"):
            owner = module.get_submodule(name.rpartition(".")[0])
            owner.register_buffer("position_ids", torch.arange(buffer.shape[-1])[None], persistent=False)
    module.eval().requires_grad_(False)
