"""Shapes of layers where no checkpoint tells them: from the LoRA file's own kernels and from the layers' names."""

from __future__ import annotations

from collections.abc import Sequence

from lib_loraclr.core.deltas import Delta, LayerShape
from lib_loraclr.formats import LayerUpdate

CONVOLUTIONS_3X3 = ("conv1", "conv2", "conv_in", "conv_out", "conv")


def shape_without_model(name: str, delta: Delta, updates: Sequence[LayerUpdate], family: str) -> LayerShape:
    """The shape of layer `name`, whose unfolded change is `delta`.

    A kernel that a file shows is believed; files of flattened types (LoHa, LoKr) show none, so the name decides:
    every `conv…` of the UNet is 3 x 3, its shortcut 1 x 1, and proj_in / proj_out are 1 x 1 in SD1, linear later.
    """
    out, columns = delta.shape
    kernel = next((found for update in updates if (found := _stated(update))), None) or _by_name(name, columns, family)
    if kernel is None or columns % (kernel[0] * kernel[1]):
        return LayerShape(out, columns)
    return LayerShape(out, columns // (kernel[0] * kernel[1]), kernel)


def _stated(update: LayerUpdate) -> tuple[int, int] | None:
    return (update.kernel[0], update.kernel[1]) if len(update.kernel) == 2 else None


def _by_name(name: str, columns: int, family: str) -> tuple[int, int] | None:
    if not name.startswith("unet."):
        return None
    last = name.rpartition(".")[2]
    if last in CONVOLUTIONS_3X3:
        return (3, 3) if columns % 9 == 0 else None
    if last == "conv_shortcut" or (last in ("proj_in", "proj_out") and family == "sd1" and ".attentions." in name):
        return 1, 1
    return None
