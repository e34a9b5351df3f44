"""cloneofsimo's safetensors: `unet:3:up`, numbered in the order in which layers were injected, no names.

That order is the one in which torch walks the model: UNet down, up and middle blocks, each attention before residual
blocks; CLIP attention k, v, q, out. Whether the feed-forward comes before or after cross-attention changed between
versions of diffusers; the shapes tell. Scale 1, no alpha. (cloneofsimo/lora `save_safeloras_with_embeds`.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from lib_loraclr.core.errors import InputError
from lib_loraclr.formats.safetensors_io import SafetensorsFile

_KEY = re.compile(r"(unet|text_encoder):(\d+):(up|down)")
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_TEXT = ("k_proj", "v_proj", "q_proj", "out_proj")
_RESNET = ("conv1", "time_emb_proj", "conv2")
_ORDERS = (("attn1", "ff", "attn2"), ("attn1", "attn2", "ff"))


def is_positional(keys: Iterable[str]) -> bool:
    """Whether the file numbers its layers."""
    return any(_KEY.fullmatch(key) for key in keys)


def named_keys(file: SafetensorsFile) -> tuple[dict[str, str], list[str]]:
    """(name that the readers know -> key in the file, keys of embeddings).

    Raises InputError if the layers are not those of Stable Diffusion 1 or 2 in a known order.
    """
    layers: dict[str, set[int]] = {}
    embeddings: list[str] = []
    for key in file.tensors:
        match = _KEY.fullmatch(key)
        if match:
            layers.setdefault(match.group(1), set()).add(int(match.group(2)))
        elif file.metadata.get(key) == "<embed>":
            embeddings.append(key)
    names: dict[str, str] = {}
    for component, numbers in layers.items():
        order = _order(file, component, len(numbers))
        if numbers != set(range(len(order))):
            raise _unknown_order(file, component)
        for number, path in enumerate(order):
            for part in ("up", "down"):
                key = f"{component}:{number}:{part}"
                if key in file.tensors:
                    names[f"{component}.{path}.lora_{part}.weight"] = key
    return names, embeddings


def _order(file: SafetensorsFile, component: str, count: int) -> list[str]:
    if component == "text_encoder":
        return [f"text_model.encoder.layers.{i}.self_attn.{name}" for i in range(count // 4) for name in _TEXT]
    for parts in _ORDERS:
        for resnets in (False, True):
            paths = list(_unet_paths(parts, resnets))
            if len(paths) == count and _shapes_agree(file, paths):
                return paths
    raise _unknown_order(file, component)


def _unet_paths(parts: tuple[str, ...], resnets: bool) -> Iterator[str]:
    """Injected layers of the standard UNet (four levels, two residual blocks) in torch's walking order."""
    blocks = [
        *((f"down_blocks.{level}", 2, level < 3, level) for level in range(4)),
        *((f"up_blocks.{level}", 3, level > 0, level) for level in range(4)),
        ("mid_block", 2, True, -1),
    ]
    for block, count, attention, level in blocks:
        for index in range(1 if level < 0 else count) if attention else ():
            for part in parts:
                inner = f"{block}.attentions.{index}.transformer_blocks.0.{part}"
                yield from ((f"{inner}.net.0.proj",) if part == "ff" else (f"{inner}.{name}" for name in _ATTENTION))
        for index in range(count) if resnets else ():
            yield from (f"{block}.resnets.{index}.{name}" for name in _RESNET)
            if block.startswith("up") or (block in ("down_blocks.1", "down_blocks.2") and index == 0):
                yield f"{block}.resnets.{index}.conv_shortcut"


def _shapes_agree(file: SafetensorsFile, paths: list[str]) -> bool:
    """Self-attention is square, GEGLU eight times as wide, all cross-attention K and V read one width."""
    contexts: set[int] = set()
    for number, path in enumerate(paths):
        up, down = (file.tensors.get(f"unet:{number}:{part}") for part in ("up", "down"))
        if up is None or down is None:
            continue  # the reader says what is missing
        out, inputs = up.shape[0], down.shape[1]
        if path.endswith(("attn2.to_k", "attn2.to_v")):
            contexts.add(inputs)
        elif (".attn" in path and out != inputs) or (path.endswith("net.0.proj") and out != 8 * inputs):
            return False
    return len(contexts) == 1


def _unknown_order(file: SafetensorsFile, component: str) -> InputError:
    message = f"{file.path.name} numbers its {component} layers in an order that is not known here."
    return InputError("unknown-order", message, file=str(file.path), key=f"{component}:0:up")
