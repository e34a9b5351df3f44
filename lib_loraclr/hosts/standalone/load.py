"""`load_checkpoint`: from one `.safetensors` file to a `StandaloneHost`, offline."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib_loraclr.core.errors import InputError

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
    tensors = _read(path)
    yaml_path = Path(config) if config is not None else path.with_suffix(".yaml")
    yaml = _read_yaml(yaml_path) if config is not None or yaml_path.is_file() else None
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    architecture = read_architecture(shapes, yaml, path.name, yaml_path.name)
    kind = DTYPES[dtype] if isinstance(dtype, str) else dtype
    unet, vae, encoders = _build(tensors, architecture, _text_config(yaml, yaml_path), path.name, kind)
    for module in (unet, vae, *encoders):
        if module is not None:
            module.to(device)
    return StandaloneHost(
        path.stem, _sha256(path), architecture, unet, encoders, vae, TOKENIZER, prediction or architecture.prediction
    )


def _require_packages() -> None:
    try:
        import diffusers  # noqa: F401
        import transformers  # noqa: F401
        import yaml  # noqa: F401
    except ImportError as error:
        raise InputError(
            "missing-dependency",
            f"Running a checkpoint without a WebUI needs the package {error.name}: "
            "pip install -r requirements/standalone.txt.",
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise InputError("file-not-found", f"There is no checkpoint {path}.", file=str(path))
    if path.suffix.lower() in {".ckpt", ".pt", ".pth", ".bin"}:
        raise InputError(
            "pickle", f"{path.name} is a pickle, which can run code when it is opened; convert it to .safetensors.",
            file=path.name,
        )  # fmt: skip
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            "unreadable-file", f"{path.name} is not a complete safetensors file ({error}).", file=path.name
        ) from error


def _read_yaml(path: Path) -> dict[str, Any]:
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
    tensors: Mapping[str, Tensor], architecture: Architecture, text_config: Mapping[str, Any], file: str,
    dtype: torch.dtype,
) -> tuple[nn.Module, nn.Module | None, list[nn.Module]]:  # fmt: skip
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from .convert import text_tensors, unet_tensors, vae_tensors

    with torch.device("meta"):  # no memory, no initialisation, no global random numbers
        unet = UNet2DConditionModel(**architecture.unet)
        vae = AutoencoderKL(**architecture.vae) if architecture.vae else None
        given = (text_config, {})  # the yaml's folder describes the first encoder
        encoders = [_text_model(size, own) for size, own in zip(architecture.text, given, strict=False)]
    _fill(unet, unet_tensors(tensors, architecture), file, "UNet", dtype)
    if vae is not None:
        _fill(vae, vae_tensors(tensors, architecture), file, "VAE", torch.float32)
    for encoder, size in zip(encoders, architecture.text, strict=True):
        _fill(encoder, text_tensors(tensors, size), file, "text encoder", dtype)
    return unet, vae, encoders


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


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
