"""Writing the single-file checkpoint, its .yaml and the text configuration, and checking them with diffusers."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from . import ldm
from .model import TEXT, build_text, build_unet, build_vae


def write_checkpoint(
    folder: Path, unet: nn.Module, vae: nn.Module, text: nn.Module, dtype: torch.dtype = torch.float16
) -> Path:
    """Write miniature.safetensors, miniature.yaml and clip/config.json to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    state = ldm.to_ldm(unet.state_dict(), vae.state_dict(), text.state_dict(), dtype)
    path = folder / "miniature.safetensors"
    metadata = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.title": "miniature",
        "modelspec.resolution": "96x96",
        "modelspec.prediction_type": "epsilon",
    }
    save_file(state, path, metadata)
    (folder / "miniature.yaml").write_text(ldm.yaml_text(), encoding="utf-8")
    (folder / "clip").mkdir(exist_ok=True)
    config = {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "layer_norm_eps": 1e-05,
        **TEXT,
    }
    (folder / "clip" / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return path


def check_checkpoint(path: Path) -> dict[str, float]:
    """Convert the file back with diffusers' own converters; largest difference of the outputs from ours."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    state = load_file(path)
    unet, vae, text = build_unet().eval(), build_vae().eval(), build_text().eval()
    ours = ldm.from_ldm(state, list(unet.state_dict()), vae.state_dict(), list(text.state_dict()))
    for module, part in zip((unet, vae, text), ours, strict=True):
        module.load_state_dict(part)
    other_unet, other_vae = build_unet().eval(), build_vae().eval()
    floats = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    other_unet.load_state_dict(convert_ldm_unet_checkpoint(dict(floats), dict(other_unet.config)))
    other_vae.load_state_dict(convert_ldm_vae_checkpoint(dict(floats), dict(other_vae.config)))
    g = torch.Generator().manual_seed(0)
    x, c, p = (torch.randn(s, generator=g) for s in ((2, 4, 12, 12), (2, 77, TEXT["hidden_size"]), (2, 3, 96, 96)))
    with torch.no_grad():
        a, b = (m(x, 500, c).sample for m in (unet, other_unet))
        d, e = (m.decode(m.encode(p).latent_dist.mean).sample for m in (vae, other_vae))
    return {"unet": float((a - b).abs().max()), "vae": float((d - e).abs().max())}
