"""Pictures of who acts where, from sampling's own weights, in the regions' colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from lib_loraclr.core.errors import InputError
from lib_loraclr.html import picture_address
from lib_loraclr.regional import RegionalSpec, parse_spec
from lib_loraclr.regional.weights import RegionWeights, base_weight
from lib_loraclr.samplers import LATENT_FACTOR

MAX_SIDE = 8192
SHOWN_SIDE = 256  # pixels of the longer side of the finest preview
DEPTHS = (1, 2, 4, 8)  # latent cells in one cell of the UNet's layers
# Of the regions, here and on the canvas: Okabe and Ito's, which stay apart in the common kinds of colour blindness.
COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (143, 124, 201),
           (184, 173, 31))  # fmt: skip
BASE_COLOUR = (232, 232, 236)


def weight_maps(raw: Any, width: Any, height: Any) -> dict[str, Any]:
    """{"maps": [{label, png}]}: who acts where, on the picture and on the UNet's layers, from sampling's own weights.

    `width` and `height` are the picture's, in pixels. Step windows are left out. Raises InputError.
    """
    columns, rows = _side(width, "width"), _side(height, "height")
    size = max(1, rows // LATENT_FACTOR), max(1, columns // LATENT_FACTOR)
    weights = RegionWeights(parse_spec(raw), *size)
    colours = region_colours(weights.spec)
    scale = min(1.0, SHOWN_SIDE / max(columns, rows))
    fine = max(1, round(rows * scale)), max(1, round(columns * scale))
    maps = [{"label": f"picture {columns} x {rows}", "png": _coloured(weights, *fine, colours, fine)}]
    for depth in DEPTHS:
        cells = _cells(rows, depth), _cells(columns, depth)
        maps.append({"label": f"layers of {cells[1]} x {cells[0]}", "png": _coloured(weights, *cells, colours, fine)})
    return {"maps": maps}


def region_colours(spec: RegionalSpec) -> list[tuple[int, int, int]]:
    """The canvas's colour of every active region: by the number in its id, else by its place in the list."""
    found: list[tuple[int, int, int]] = []
    for place, region in enumerate(spec.regions):
        number = region.id[1:] if region.id.startswith("r") and region.id[1:].isdecimal() else ""
        if region.on:
            found.append(COLOURS[(int(number[:6]) - 1 if number else place) % len(COLOURS)])
    return found


def _coloured(
    layers: RegionWeights, rows: int, columns: int, colours: Sequence[tuple[int, int, int]], shown: tuple[int, int]
) -> str:
    """Data URL of a picture of the weights on `rows` x `columns` cells, enlarged to `shown` (rows, columns)."""
    strength = torch.tensor([region.strength for region in layers.regions], dtype=torch.float64)
    weights = layers.unscaled(rows, columns) * ((1 - layers.spec.base.in_regions) * strength)[:, None, None]
    palette = torch.tensor([BASE_COLOUR, *colours], dtype=torch.float64)
    everyone = torch.cat([base_weight(weights)[None], weights])
    pixels: Tensor = torch.einsum("rhw,rc->hwc", everyone, palette).round().clamp(0, 255).to(torch.uint8)
    picture = Image.frombytes("RGB", (columns, rows), bytes(pixels.flatten().tolist()))
    if (rows, columns) != shown:
        picture = picture.resize((shown[1], shown[0]), Image.Resampling.NEAREST)
    return picture_address(picture, "png")


def _cells(pixels: int, depth: int) -> int:
    """Cells of a layer: every halving of the latents rounds up."""
    cells = max(1, pixels // LATENT_FACTOR)
    while depth > 1:
        cells, depth = (cells + 1) // 2, depth // 2
    return cells


def _side(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 8 <= value <= MAX_SIDE:
        raise InputError("bad-size", f"'{name}' must be 8 to {MAX_SIDE} pixels.", key=name)
    return int(value)
