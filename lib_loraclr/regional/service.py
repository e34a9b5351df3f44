"""Regional layouts as data: check, preview, import. One place for the panel, the HTTP API and the hosts' scripts."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lib_loraclr.core.errors import InputError
from lib_loraclr.regional import Mask, RegionalSpec, parse_spec, spec_as_json, validate_spec
from lib_loraclr.regional.importers import import_forge_couple, import_regional_prompter, import_text
from lib_loraclr.regional.layout import Layout, base_weight
from lib_loraclr.regional.shapes import MAX_MASK_SIDE

MAX_PICTURE_BYTES = 16_000_000
MAX_SIDE = 8192
SHOWN_SIDE = 256  # pixels of the longer side of the finest preview
LATENT = 8  # picture pixels in one latent cell
DEPTHS = (1, 2, 4, 8)  # latent cells in one cell of the UNet's layers
# Okabe and Ito's colours, as on the canvas.
COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (143, 124, 201),
           (184, 173, 31))  # fmt: skip
BASE_COLOUR = (232, 232, 236)


def read_regions(raw: Any) -> tuple[RegionalSpec, list[InputError]]:
    """The spec of a text, an object or None, PNG masks included, and every problem; never raises."""
    if not isinstance(raw, str | dict | None):
        return RegionalSpec(), [InputError("bad-regions", "The regions must be a JSON object or its text.")]
    return validate_spec(raw, picture=picture_mask)


def check_regions(raw: Any) -> dict[str, Any]:
    """{"spec": what can be used of it, "problems": [{code, message, key, file}]}."""
    spec, problems = read_regions(raw)
    return {"spec": spec_as_json(spec), "problems": [problem.as_dict() for problem in problems]}


def picture_mask(data: bytes) -> Mask:
    """A mask from a PNG: its opaque part where it has transparency, else its brightness. Raises InputError."""
    if len(data) > MAX_PICTURE_BYTES:
        raise InputError("bad-mask", "The PNG of the mask is too large.")
    try:
        picture = Image.open(io.BytesIO(data), formats=["PNG"])
        if max(picture.size) > MAX_MASK_SIDE:
            raise InputError("bad-mask", f"The PNG of the mask is larger than {MAX_MASK_SIDE} pixels.")
        picture.load()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise InputError("bad-mask", "The mask is not a PNG picture.") from None
    if "A" in picture.getbands() or "transparency" in picture.info:
        alpha = picture.convert("RGBA").getchannel("A")
        if min(alpha.tobytes()) < 255:
            width, height = picture.size
            return Mask(width, height, alpha.tobytes())
    width, height = picture.size
    return Mask(width, height, picture.convert("RGB").convert("L").tobytes())


def weight_maps(raw: Any, width: Any, height: Any) -> dict[str, Any]:
    """{"maps": [{label, png}]}: who acts where, on the picture and on the UNet's layers, from sampling's own weights.

    `width` and `height` are the picture's, in pixels. Step windows are left out. Raises InputError.
    """
    columns, rows = _side(width, "width"), _side(height, "height")
    layout = Layout(parse_spec(raw, picture=picture_mask), max(1, rows // LATENT), max(1, columns // LATENT))
    colours = region_colours(layout.spec)
    scale = min(1.0, SHOWN_SIDE / max(columns, rows))
    fine = max(1, round(rows * scale)), max(1, round(columns * scale))
    maps = [{"label": f"picture {columns} x {rows}", "png": _coloured(layout, *fine, colours, fine)}]
    for depth in DEPTHS:
        cells = _cells(rows, depth), _cells(columns, depth)
        maps.append({"label": f"layers of {cells[1]} x {cells[0]}", "png": _coloured(layout, *cells, colours, fine)})
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
    layout: Layout, rows: int, columns: int, colours: Sequence[tuple[int, int, int]], shown: tuple[int, int]
) -> str:
    """Data URL of a picture of the weights on `rows` x `columns` cells, enlarged to `shown` (rows, columns)."""
    strength = torch.tensor([region.strength for region in layout.regions], dtype=torch.float64)
    weights = layout.shares(rows, columns) * ((1 - layout.spec.base.in_regions) * strength)[:, None, None]
    palette = torch.tensor([BASE_COLOUR, *colours], dtype=torch.float64)
    everyone = torch.cat([base_weight(weights)[None], weights])
    pixels: Tensor = torch.einsum("rhw,rc->hwc", everyone, palette).round().clamp(0, 255).to(torch.uint8)
    picture = Image.frombytes("RGB", (columns, rows), bytes(pixels.flatten().tolist()))
    if (rows, columns) != shown:
        picture = picture.resize((shown[1], shown[0]), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _cells(pixels: int, depth: int) -> int:
    """Cells of a layer: every halving of the latents rounds up."""
    cells = max(1, pixels // LATENT)
    while depth > 1:
        cells, depth = (cells + 1) // 2, depth // 2
    return cells


def _side(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 8 <= value <= MAX_SIDE:
        raise InputError("bad-size", f"'{name}' must be 8 to {MAX_SIDE} pixels.", key=name)
    return int(value)


def import_regions(raw: Any, size: tuple[int, int] = (512, 512)) -> dict[str, Any]:
    """{"spec", "notes", "prompt", "negative"} of a layout in another program's notation, or of a spec's JSON.

    `prompt` is None where the text says nothing about the picture's own. `size` (width, height) is what Mix-of-Show's
    pixel positions refer to. Raises InputError.
    """
    if not isinstance(raw, str) or not raw.strip():
        raise InputError("bad-import", "Paste a prompt or a layout first.", key="text")
    if raw.lstrip().startswith("{"):
        spec = parse_spec(raw, picture=picture_mask)
        return {"spec": spec_as_json(spec), "notes": [], "prompt": None, "negative": None}
    found = import_text(raw, size=size)
    return {
        "spec": spec_as_json(found.spec),
        "notes": list(found.notes),
        "prompt": found.prompt,
        "negative": found.negative,
    }


def split_prompt_text(prompt: str, separator: str) -> tuple[str, list[str]]:
    """(the picture's own prompt, the regions' prompts) of a prompt in text mode. Raises InputError "bad-import"."""
    if separator in ("BREAK", "AND"):
        found = import_regional_prompter(prompt)
    elif separator == "line":
        found = import_forge_couple(prompt)
    else:
        found = import_text(prompt)
    return found.prompt, [region.prompt for region in found.spec.regions]
