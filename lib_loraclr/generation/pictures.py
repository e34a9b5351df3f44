"""Pictures as files: PNG with the WebUI's parameters text, and contact sheets."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor


def to_images(pixels: Tensor) -> list[Image.Image]:
    """uint8 (n, h, w, 3) to pictures."""
    return [Image.fromarray(picture.numpy()) for picture in pixels]


def png(image: Image.Image, parameters: str) -> bytes:
    """PNG bytes with the text chunk `parameters` that the WebUI's PNG info reads."""
    info = PngInfo()
    info.add_itxt("parameters", parameters) if not parameters.isascii() else info.add_text("parameters", parameters)
    stream = io.BytesIO()
    image.save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def contact_sheet(images: Sequence[Image.Image], *, gap: int = 4) -> Image.Image:
    """All pictures in a grid that is nearly square, in reading order."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width, height = images[0].size
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), (128, 128, 128))
    for index, image in enumerate(images):
        sheet.paste(image, ((index % columns) * (width + gap), (index // columns) * (height + gap)))
    return sheet


def infotext(
    prompt: str,
    negative: str,
    *,
    steps: int,
    sampler: str,
    cfg: float,
    seed: int,
    size: tuple[int, int],
    model: str,
    sha: str,
    more: Mapping[str, str] | None = None,
) -> str:
    """The three lines that the WebUI writes and parses; `more` are further entries of the last one."""
    lines = [prompt, *([f"Negative prompt: {negative}"] if negative else [])]
    facts = f"Steps: {steps}, Sampler: {sampler}, CFG scale: {cfg:g}, Seed: {seed}, Size: {size[0]}x{size[1]}"
    rest = "".join(f", {name}: {_quoted(text)}" for name, text in (more or {}).items())
    return "\n".join([*lines, f"{facts}, Model hash: {sha[:10]}, Model: {_quoted(model)}{rest}"])


def _quoted(text: str) -> str:
    """As the WebUI writes values that would break its line: as a JSON text."""
    return json.dumps(text, ensure_ascii=False) if any(letter in text for letter in ",:\n") else text
