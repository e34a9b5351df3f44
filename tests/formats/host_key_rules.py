"""Which keys of a LoRA file A1111 and Forge can place, and what they make of its metadata.

Written from their documented behaviour: A1111 1.10 `extensions-builtin/Lora` (networks.py: name translation and module
lookup; network_*.py: which tensors make a module; network.py: version), Forge `comfyui_lora_collection` (key map of a
loaded model; tensor names) and `sd_forge_lora/networks.py` (more than 12 unmatched keys: file dropped).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

FORGE_LIMIT = 12
_CLIP_PARTS = ("mlp.fc1", "mlp.fc2", *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")))
_RESNET_PARTS = {
    "conv1": "in_layers_2",
    "conv2": "out_layers_3",
    "norm1": "in_layers_0",
    "norm2": "out_layers_0",
    "time_emb_proj": "emb_layers_1",
    "conv_shortcut": "skip_connection",
}


class A1111:
    """Modules by flat name: `diffusion_model_…` for the UNet, the text encoder under its own module names."""

    def __init__(self, family: str, unet_modules: Iterable[str], text_layers: Mapping[str, int]) -> None:
        self.family = family
        self.modules = {"diffusion_model_" + name.replace(".", "_") for name in unet_modules}
        for component, count in text_layers.items():
            open_clip = family == "sd2" or component == "text_encoder_2"
            number = {"text_encoder": "0_", "text_encoder_2": "1_"}[component] if family == "sdxl" else ""
            for i in range(count):
                if open_clip:
                    names = [f"model_transformer_resblocks_{i}_{part}" for part in
                             ("attn", "attn_out_proj", "mlp_c_fc", "mlp_c_proj", "ln_1", "ln_2")]  # fmt: skip
                else:
                    names = [f"transformer_text_model_encoder_layers_{i}_{part.replace('.', '_')}" for part in
                             (*_CLIP_PARTS, "layer_norm1", "layer_norm2")]  # fmt: skip
                self.modules |= {number + name for name in names}

    def module(self, key: str) -> str | None:
        """The module that takes a module key, or None."""
        name = self._translated(key)
        if name in self.modules:
            return name
        joint = re.fullmatch(r"(.*)_[qkv]_proj", name)  # open_clip's attention is one module
        if joint and joint.group(1) in self.modules:
            return joint.group(1)
        for prefix, real in (("lora_unet", "diffusion_model"), ("lora_te1_text_model", "0_transformer_text_model")):
            if key.startswith(prefix) and key.replace(prefix, real) in self.modules:
                return key.replace(prefix, real)
        return None

    def _translated(self, key: str) -> str:
        """Diffusers names to LDM names, always as if a level had two residual blocks."""
        unet = key.removeprefix("lora_unet_")
        if unet != key:
            return self._unet(unet) or key
        text = re.fullmatch(r"lora_te(2?)_text_model_encoder_layers_(\d+)_(.+)", key)
        if text is None:
            return key
        second, number, part = text.groups()
        if second or self.family == "sd2":
            part = {"mlp_fc1": "mlp_c_fc", "mlp_fc2": "mlp_c_proj"}.get(part, part.replace("self_attn", "attn"))
            return f"{'1_' if second else ''}model_transformer_resblocks_{number}_{part}"
        return f"transformer_text_model_encoder_layers_{number}_{part}"

    @staticmethod
    def _unet(name: str) -> str | None:
        fixed = {"conv_in": "input_blocks_0_0", "conv_out": "out_2", "time_embedding_linear_1": "time_embed_0",
                 "time_embedding_linear_2": "time_embed_2"}  # fmt: skip
        if name in fixed:
            return f"diffusion_model_{fixed[name]}"
        down = re.fullmatch(r"down_blocks_(\d+)_downsamplers_0_conv", name)
        if down:
            return f"diffusion_model_input_blocks_{3 * int(down[1]) + 3}_0_op"
        up = re.fullmatch(r"up_blocks_(\d+)_upsamplers_0_conv", name)
        if up:
            return f"diffusion_model_output_blocks_{3 * int(up[1]) + 2}_{2 if int(up[1]) else 1}_conv"
        block = re.fullmatch(r"(?:(down|up)_blocks_(\d+)|mid_block)_(attentions|resnets)_(\d+)_(.+)", name)
        if block is None:
            return None
        side, level, kind, index, part = block.groups()
        attention = kind == "attentions"
        part = part if attention else _RESNET_PARTS.get(part, part)
        if side is None:
            return f"diffusion_model_middle_block_{1 if attention else 2 * int(index)}_{part}"
        number = 3 * int(level) + int(index) + (side == "down")
        return f"diffusion_model_{'input' if side == 'down' else 'output'}_blocks_{number}_{int(attention)}_{part}"

    def placed(self, keys: Iterable[str]) -> tuple[dict[str, str], list[str]]:
        """(module key -> module, keys without one). Raises AssertionError for a module that no type would take."""
        groups: dict[str, set[str]] = {}
        for key in keys:
            module, _, part = key.partition(".")
            groups.setdefault(module, set()).add(part)
        found = {key: module for key in groups if (module := self.module(key))}
        for key in found:
            types = ({"lora_up.weight", "lora_down.weight"}, {"diff"}, {"w_norm", "b_norm"})
            assert any(needed <= groups[key] for needed in types), f"A1111 raises for {key}: {groups[key]}"
        return found, [f"{key}.{part}" for key, parts in groups.items() if key not in found for part in parts]


class Forge:
    """Key map of a loaded model: UNet weights by LDM and by diffusers name, six linear layers of each CLIP layer."""

    def __init__(self, family: str, unet_modules: Mapping[str, str], text_layers: Mapping[str, int]) -> None:
        """`unet_modules`: LDM module name -> diffusers module name, of modules that have a weight."""
        self.targets: dict[str, str] = {}
        for ldm, ours in unet_modules.items():
            for key in (f"lora_unet_{ldm}", f"lora_unet_{ours}", f"lycoris_{ours}"):
                self.targets[key.replace(".", "_")] = f"diffusion_model.{ldm}"
        for component, count in text_layers.items():
            clip = "clip_g" if component == "text_encoder_2" else "clip_h" if family == "sd2" else "clip_l"
            prefixes = ("lora_te2",) if clip == "clip_g" else ("lora_te", "lora_te1")
            for i in range(count):
                for part in _CLIP_PARTS:
                    target = f"{clip}.transformer.text_model.encoder.layers.{i}.{part}"
                    for prefix in prefixes:
                        self.targets[f"{prefix}_text_model_encoder_layers_{i}_{part.replace('.', '_')}"] = target
        self.targets["lora_te2_text_projection"] = "clip_g.transformer.text_projection"

    def placed(self, keys: Iterable[str]) -> tuple[dict[str, str], list[str]]:
        """(module key -> target, unmatched keys)."""
        known = {"lora_up.weight", "lora_down.weight", "lora_mid.weight", "alpha", "dora_scale", "diff", "diff_b",
                 "w_norm", "b_norm"}  # fmt: skip
        found: dict[str, str] = {}
        unmatched: list[str] = []
        for key in keys:
            module, _, part = key.partition(".")
            if module in self.targets and part in known:
                found[module] = self.targets[module]
            else:
                unmatched.append(key)
        return found, unmatched


def a1111_version(metadata: Mapping[str, str]) -> str:
    """SD version on A1111's card."""
    if metadata.get("ss_base_model_version", "").startswith("sdxl_"):
        return "SDXL"
    if metadata.get("ss_v2") == "True":
        return "SD2"
    return "SD1" if metadata else "Unknown"


def forge_version(metadata: Mapping[str, str]) -> str:
    """SD version on Forge's card: ModelSpec first."""
    architecture = metadata.get("modelspec.architecture")
    if architecture == "stable-diffusion-xl-v1-base/lora" or metadata.get("ss_base_model_version", "").startswith(
        "sdxl_"
    ):
        return "SDXL"
    if metadata.get("ss_v2") == "True":
        return "SD2"
    return "SD1" if architecture == "stable-diffusion-v1/lora" else "Unknown"
