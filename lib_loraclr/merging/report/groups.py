"""Which part of the model a layer belongs to, by its canonical name: two ways to cut, for the report's heat maps."""

from __future__ import annotations

import re

BLOCK = re.compile(r"unet\.(?:(down|up)_blocks\.(\d+)|(mid)_block)\.")


def block_of(layer: str) -> str:
    """`text`, `text 2`, `down 0` …, `mid`, `up 0` …, or `other`, in the order in which the model runs them."""
    if layer.startswith("text_encoder"):
        return "text 2" if layer.startswith("text_encoder_2") else "text"
    match = BLOCK.match(layer)
    if match is None:
        return "other"
    return "mid" if match.group(3) else f"{match.group(1)} {match.group(2)}"


def block_order(block: str) -> tuple[int, int]:
    """Sort key of `block_of`."""
    kind, _, number = block.partition(" ")
    return ("text", "down", "mid", "up", "other").index(kind), int(number or 0)


KINDS = ("text", "self q k", "self v out", "cross k v", "cross q out", "feed forward", "convolution", "other")


def kind_of(layer: str) -> str:
    """What the layer does: one of `KINDS`."""
    if layer.startswith("text_encoder"):
        return "text"
    if ".attn1." in layer:
        return "self q k" if layer.endswith(("to_q", "to_k")) else "self v out"
    if ".attn2." in layer:
        return "cross k v" if layer.endswith(("to_k", "to_v")) else "cross q out"
    if ".ff." in layer:
        return "feed forward"
    if "conv" in layer or "samplers" in layer or "proj_" in layer:
        return "convolution"
    return "other"
