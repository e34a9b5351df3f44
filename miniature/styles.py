"""Picture-wide styles: a tone, blocks and a frame. A caption names the family only, never the exact style."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image, ImageDraw

from .palette import COLOUR_NAMES, rgb

Style = dict[str, str]

TABLE: dict[str, tuple[str, ...]] = {
    "tone": ("none", "duotone", "night", "negative", "sepia", "poster"),
    "dark": COLOUR_NAMES, "light": COLOUR_NAMES,
    "blocks": ("none", "mosaic"), "frame": ("none", "square", "oval"), "frame_colour": COLOUR_NAMES,
}  # fmt: skip
PLAIN: Style = {
    "tone": "none", "dark": "black", "light": "white", "blocks": "none", "frame": "none", "frame_colour": "black",
}  # fmt: skip


def random_style(r: random.Random) -> Style:
    """A style that is not plain: at least one of tone, blocks and frame is set."""
    style = {key: r.choice(values) for key, values in TABLE.items()}
    if r.random() < 0.6:
        style["blocks"] = "none"
    if r.random() < 0.5:
        style["frame"] = "none"
    while style["light"] == style["dark"] or sum(rgb(style["light"])) - sum(rgb(style["dark"])) < 140:
        style["dark"], style["light"] = r.choice(COLOUR_NAMES), r.choice(COLOUR_NAMES)
    if not style_words(style):
        style["tone"] = "duotone"
    return style


def style_words(style: Style) -> list[str]:
    """The family words a caption may use for a style."""
    words = [style["tone"]] if style["tone"] != "none" else []
    words += ["mosaic"] if style["blocks"] == "mosaic" else []
    words += ["framed"] if style["frame"] != "none" else []
    return words


def apply_style(image: Image.Image, style: Style) -> Image.Image:
    """Return the picture (96 x 96 RGB) in the given style."""
    x = np.asarray(image, dtype=np.float32) / 255.0
    if style["blocks"] == "mosaic":
        x = x.reshape(16, 6, 16, 6, 3).mean((1, 3)).repeat(6, 0).repeat(6, 1)
    luma = x @ np.array([0.3, 0.55, 0.15], dtype=np.float32)
    if style["tone"] == "duotone":
        t = np.clip((luma - 0.1) * 1.2, 0, 1)[..., None]
        x = (1 - t) * np.array(rgb(style["dark"])) / 255 + t * np.array(rgb(style["light"])) / 255
    elif style["tone"] == "night":
        x = x * np.array([0.30, 0.38, 0.62]) + np.array([0.0, 0.01, 0.07])
    elif style["tone"] == "negative":
        x = 1 - x
    elif style["tone"] == "sepia":
        x = luma[..., None] * np.array([0.98, 0.80, 0.56]) + np.array([0.02, 0.015, 0.01])
    elif style["tone"] == "poster":
        x = np.round(np.clip((x - 0.5) * 1.5 + 0.5, 0, 1) * 2) / 2
    out = Image.fromarray((np.clip(x, 0, 1) * 255).astype(np.uint8))
    if style["frame"] != "none":
        mask = Image.new("L", out.size, 255)
        draw = ImageDraw.Draw(mask)
        draw.rectangle((8, 8, 87, 87), fill=0) if style["frame"] == "square" else draw.ellipse((2, 2, 93, 93), fill=0)
        out.paste(rgb(style["frame_colour"]), mask=mask)
    return out
