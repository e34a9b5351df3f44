"""LoRA layers on the miniature, and kohya files: names, metadata and hashes as sd-scripts writes them."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lib_loraclr.formats.keys.keymap import KeyMap

# What a trigger can gate: the text encoder, and in cross-attention the keys, values and the projection behind them. The
# queries see the picture alone, which is much the same for every concept.
UNET_TARGETS = r"transformer_blocks\.0\.attn2\.to_(k|v|out\.0)$"
TEXT_TARGETS = r"layers\.\d+\.self_attn\.(q|k|v|out)_proj$"


class LoraLinear(nn.Module):
    """A frozen linear layer plus a trainable low-rank update; up starts at zero."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        self.base, self.rank, self.alpha = base, rank, alpha
        bound = 1 / math.sqrt(base.in_features)
        down = (torch.rand(rank, base.in_features, generator=generator) * 2 - 1) * bound
        self.down = nn.Parameter(down.to(base.weight.device))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, out)."""
        return self.base(x) + (x @ self.down.T) @ self.up.T * (self.alpha / self.rank)


def targets(root: nn.Module, pattern: str) -> Iterator[tuple[str, nn.Module, str]]:
    """Name, parent module and attribute of every linear layer that the pattern names."""
    for name, module in list(root.named_modules()):
        if isinstance(module, nn.Linear) and re.search(pattern, name):
            parent, _, leaf = name.rpartition(".")
            yield name, root.get_submodule(parent), leaf


def kohya_names(unet: nn.Module, text: nn.Module) -> dict[nn.Module, str]:
    """Key prefix in a kohya file of every linear layer.

    The UNet's names are those of the original code base: A1111 numbers diffusers' block names as if every level had two
    residual blocks, and the miniature has one; every host knows the original names.
    """
    linear = {f"unet.{n}": m for n, m in unet.named_modules() if isinstance(m, nn.Linear)}
    inside = {"text_encoder.text_model." + n.removeprefix("text_model."): m for n, m in text.named_modules()}
    linear |= {name: module for name, module in inside.items() if isinstance(module, nn.Linear)}
    names = KeyMap.from_layers([f"unet.{n}" for n, _ in unet.named_modules()] + list(inside))
    return {module: names.kohya(name, sdxl=False, ldm=True) for name, module in linear.items()}


def inject(unet: nn.Module, text: nn.Module, rank: int, alpha: float, seed: int) -> dict[str, LoraLinear]:
    """Replace the target layers; returns the new layers by their kohya names."""
    g = torch.Generator().manual_seed(seed)
    layers: dict[str, LoraLinear] = {}
    names = kohya_names(unet, text)
    for root, pattern in ((unet, UNET_TARGETS), (text, TEXT_TARGETS)):
        for _, parent, leaf in targets(root, pattern):
            layer = LoraLinear(getattr(parent, leaf), rank, alpha, g)
            setattr(parent, leaf, layer)
            layers[names[layer.base]] = layer
    return layers


def eject(unet: nn.Module, text: nn.Module) -> None:
    """Put the original layers back."""
    for root in (unet, text):
        for name, module in list(root.named_modules()):
            if isinstance(module, LoraLinear):
                parent, _, leaf = name.rpartition(".")
                setattr(root.get_submodule(parent), leaf, module.base)


def state_dict(layers: dict[str, LoraLinear], dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """Tensors of a kohya file."""
    out: dict[str, Tensor] = {}
    for name, layer in layers.items():
        out[f"{name}.lora_down.weight"] = layer.down.detach().to(dtype).contiguous()
        out[f"{name}.lora_up.weight"] = layer.up.detach().to(dtype).contiguous()
        out[f"{name}.alpha"] = torch.tensor(layer.alpha, dtype=dtype)
    return out


def load_into(layers: dict[str, LoraLinear], path: Path) -> None:
    """Read a file of the same rank into injected layers."""
    state = load_file(path)
    for name, layer in layers.items():
        layer.down.data.copy_(state[f"{name}.lora_down.weight"])
        layer.up.data.copy_(state[f"{name}.lora_up.weight"])
        layer.alpha = float(state[f"{name}.alpha"])


def add_to_weights(unet: nn.Module, text: nn.Module, paths: list[Path], weight: float = 1.0) -> dict[str, Tensor]:
    """Add files to the weights of linear layers (the stacked sum); returns the old weights for `restore`."""
    modules = {name: module for module, name in kohya_names(unet, text).items()}
    old: dict[str, Tensor] = {}
    for path in paths:
        state = load_file(path)
        for key in (k for k in state if k.endswith("lora_up.weight")):
            name = key.removesuffix(".lora_up.weight")
            down, up = state[f"{name}.lora_down.weight"].float(), state[key].float()
            scale = weight * float(state[f"{name}.alpha"]) / down.shape[0]
            old.setdefault(name, modules[name].weight.data.clone())
            modules[name].weight.data += scale * up @ down
    return old


def restore(unet: nn.Module, text: nn.Module, old: dict[str, Tensor]) -> None:
    """Undo `add_to_weights`."""
    for module, name in kohya_names(unet, text).items():
        if name in old:
            module.weight.data.copy_(old[name])


def model_hash(data: bytes) -> str:
    """kohya's `sshs_model_hash`: SHA-256 of everything behind the safetensors header."""
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


def legacy_hash(data: bytes) -> str:
    """kohya's `sshs_legacy_hash`: first eight digits over 64 KiB at 1 MiB, of the file without its header."""
    body = data[8 + int.from_bytes(data[:8], "little") :]
    return hashlib.sha256(body[0x100000:0x110000]).hexdigest()[:8]


def write_kohya(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and metadata with both hashes filled in."""
    bare = save(tensors, {"format": "pt"})
    hashes = {"sshs_model_hash": model_hash(bare), "sshs_legacy_hash": legacy_hash(bare)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(save(tensors, {"format": "pt", **metadata, **hashes}))


def metadata(name: str, trigger: str, class_word: str, rank: int, alpha: float, steps: int, batch: int, images: int,
             rates: tuple[float, float], tags: dict[str, int], regularisation: int = 0) -> dict[str, str]:  # fmt: skip
    """The `ss_*` and `modelspec.*` fields of sd-scripts for a concept."""
    folder = f"{max(1, steps * batch // max(images, 1))}_{trigger} {class_word}"
    return {
        "ss_base_model_version": "sd_v1", "ss_v2": "False", "ss_sd_model_name": "miniature.safetensors",
        "ss_network_module": "networks.lora", "ss_network_dim": str(rank), "ss_network_alpha": str(alpha),
        "ss_output_name": name, "ss_resolution": "(96, 96)", "ss_learning_rate": str(rates[0]),
        "ss_unet_lr": str(rates[0]), "ss_text_encoder_lr": str(rates[1]), "ss_max_train_steps": str(steps),
        "ss_steps": str(steps), "ss_num_train_images": str(images), "ss_num_reg_images": str(regularisation),
        "ss_total_batch_size": str(batch), "ss_optimizer": "torch.optim.adamw.AdamW", "ss_lr_scheduler": "cosine",
        "ss_mixed_precision": "no", "ss_clip_skip": "None", "ss_min_snr_gamma": "5.0",
        "ss_dataset_dirs": json.dumps({folder: {"n_repeats": int(folder.split("_")[0]), "img_count": images}}),
        "ss_tag_frequency": json.dumps({folder: tags}),
        "modelspec.sai_model_spec": "1.0.0", "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models", "modelspec.title": name,
        "modelspec.resolution": "96x96", "modelspec.prediction_type": "epsilon",
        "modelspec.trigger_phrase": f"{trigger} {class_word}",
    }  # fmt: skip
