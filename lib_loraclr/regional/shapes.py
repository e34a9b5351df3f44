"""What a region can look like: box, polygon, painted mask. Coordinates are shares of the picture, y downwards."""

from __future__ import annotations

import base64
import binascii
import io
import zlib
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from lib_loraclr.core.errors import InputError

MAX_VERTICES = 2000
MAX_MASK_SIDE = 2048
MAX_PNG_BYTES = 16_000_000
SMALLEST_AREA = 1e-6  # share of the picture; less is a click, not a region


@dataclass(frozen=True)
class Box:
    """[left, right) x [top, bottom), shares of width and height."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """Share of the picture."""
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)


@dataclass(frozen=True)
class Polygon:
    """At least three vertices (x, y); closed, filled by the even-odd rule."""

    points: tuple[tuple[float, float], ...]

    @property
    def area(self) -> float:
        """Share of the picture by the shoelace formula; 0 also for a figure of eight, whose halves cancel."""
        total = 0.0
        for (x0, y0), (x1, y1) in zip(self.points, (*self.points[1:], self.points[0]), strict=True):
            total += x0 * y1 - x1 * y0
        return abs(total) / 2

    @property
    def bounds(self) -> Box:
        """The box around all vertices."""
        xs, ys = [x for x, _ in self.points], [y for _, y in self.points]
        return Box(min(xs), min(ys), max(xs), max(ys))


@dataclass(frozen=True)
class Mask:
    """A painted mask of its own size, stretched over the picture. `values`: one byte (0 to 255) a cell, row by row."""

    width: int
    height: int
    values: bytes

    @property
    def area(self) -> float:
        """Share of the picture."""
        return sum(self.values) / (255 * self.width * self.height)

    def png(self) -> bytes:
        """The mask as a grey PNG, bright inside; one bit a cell if all are 0 or 255."""
        picture = Image.frombytes("L", (self.width, self.height), self.values)
        if not self.values.translate(None, b"\x00\xff"):
            picture = picture.convert("1", dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", optimize=True)
        return buffer.getvalue()

    @classmethod
    def from_png(cls, data: bytes, key: str | None = None) -> Mask:
        """The opaque part of a PNG where it has transparency, else its brightness. Raises InputError "bad-mask"."""
        if len(data) > MAX_PNG_BYTES:
            raise _bad("The PNG of the mask is too large.", key)
        try:
            picture = Image.open(io.BytesIO(data), formats=["PNG"])
            if max(picture.size) > MAX_MASK_SIDE:
                raise _bad(f"The PNG of the mask is larger than {MAX_MASK_SIDE} pixels.", key)
            picture.load()
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            raise _bad("The mask is not a PNG picture.", key) from None
        if "A" in picture.getbands() or "transparency" in picture.info:
            alpha = picture.convert("RGBA").getchannel("A")
            if min(alpha.tobytes()) < 255:
                return cls(*picture.size, alpha.tobytes())
        return cls(*picture.size, picture.convert("RGB").convert("L").tobytes())

    @classmethod
    def unpacked(cls, width: int, height: int, bits: int, packed: str, key: str | None = None) -> Mask:
        """A mask as version 0.1.0 wrote it: base64 of the deflated cells, row by row, with 1 bit or 8 a cell.

        Raises InputError "bad-mask" for a wrong size, coding or amount of data.
        """
        if not (1 <= width <= MAX_MASK_SIDE and 1 <= height <= MAX_MASK_SIDE):
            raise _bad(f"A mask is 1 to {MAX_MASK_SIDE} cells wide and high, not {width} x {height}.", key)
        if bits not in (1, 8):
            raise _bad(f"A mask has 1 or 8 bits a cell, not {bits}.", key)
        expected = width * height if bits == 8 else (width * height + 7) // 8
        try:
            stream = zlib.decompressobj()
            raw = stream.decompress(base64.b64decode(packed, validate=True), expected + 1)
        except (binascii.Error, zlib.error, ValueError):
            raise _bad("The mask's data is damaged.", key) from None
        if len(raw) != expected:
            raise _bad(f"The mask's data does not fit its size of {width} x {height} cells.", key)
        return cls(width, height, raw if bits == 8 else _from_bits(raw, width * height))


Shape = Box | Polygon | Mask


def _from_bits(raw: bytes, count: int) -> bytes:
    """First cell in the highest bit of the first byte; rows are not padded."""
    eight = [bytes(255 if byte & (128 >> bit) else 0 for bit in range(8)) for byte in range(256)]
    return b"".join(eight[byte] for byte in raw)[:count]


def _bad(message: str, key: str | None) -> InputError:
    return InputError("bad-mask", message, key=key)
