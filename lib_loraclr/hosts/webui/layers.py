"""Canonical layer names for a UNet of the original code base and for transformers' text encoders."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from lib_loraclr.core.errors import InputError
from lib_loraclr.formats.keys.unet_layout import UNetLayout


def unet_layers(unet: nn.Module) -> dict[str, nn.Module]:
    """`unet.down_blocks.0…` -> module, from names such as `input_blocks.1.1…`.

    Raises InputError "unsupported-model" for an architecture without input and output blocks (SD3, Flux, ...).
    """
    named = dict(_weighted(unet))
    layout = UNetLayout.from_ldm(named)
    if layout is None:
        raise InputError(
            "unsupported-model",
            "The loaded model is of an architecture that cannot be captured; load an SD1, SD2 or SDXL checkpoint.",
        )
    ours = {layout.to_diffusers(path): module for path, module in named.items()}
    return {f"unet.{name}": module for name, module in ours.items() if name}


def text_layers(number: int, encoder: nn.Module) -> dict[str, nn.Module]:
    """Layers of text encoder `number` (0, 1) that carries transformers' names, with or without `text_model.`."""
    stem = "text_encoder" if number == 0 else f"text_encoder_{number + 1}"
    found: dict[str, nn.Module] = {}
    for name, module in _weighted(encoder):
        inner = name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}"
        if inner.startswith("text_model.encoder.") or inner == "text_projection":
            found[f"{stem}.{inner}"] = module
    return found


def _weighted(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    # By what a layer has, not what it is: Forge's and quantised Linears do not derive from torch's.
    for name, module in root.named_modules():
        if getattr(module, "weight", None) is not None and (
            hasattr(module, "in_features") or hasattr(module, "kernel_size")
        ):
            yield name, module
