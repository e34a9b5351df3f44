"""HTML from the package's Jinja2 templates: one environment for pages and fragments, and the words for numbers in them.

What `render` and `fragment` return is `Markup`: text that other templates take as it is. Any other text is escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup
    from PIL import Image

TEMPLATES = Path(__file__).with_name("templates")
FAMILIES = {"sd1": "SD 1", "sd2": "SD 2", "sdxl": "SDXL", "unknown": "unknown base"}


def render(template: str, **values: Any) -> Markup:
    """A whole template with these variables. Raises jinja2.UndefinedError for one that it misses."""
    from markupsafe import Markup

    return Markup(environment().get_template(template).render(values))


def fragment(template: str, macro: str, *arguments: Any) -> Markup:
    """What one macro of a template makes of the arguments."""
    return getattr(environment().get_template(template).module, macro)(*arguments)


@cache
def environment() -> Environment:
    """Escaping is always on, a missing variable is an error, and templates come from this package only.

    Jinja2 is loaded here, so that a merge without a report needs none.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    filters = (percent, size_text, memory_text, time_text, family_name, hue, numeric_columns)
    made.filters.update(dict[str, Any]({function.__name__: function for function in filters}))
    return made


def percent(share: float) -> str:
    """0.25 as 25%."""
    return f"{share:.0%}"


def family_name(family: str) -> str:
    """The short name of a base family."""
    return FAMILIES.get(family, family)


def size_text(count: float) -> str:
    """Bytes in MB of 10^6, as file managers and the option `size=` count; small ones in kB."""
    if count < 1e6:
        return f"{max(count / 1e3, 1):.0f} kB"
    return (
        f"{count / 1e6:.1f} MB" if count < 1e8 else f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
    )


def memory_text(mib: float) -> str:
    """Working memory."""
    return f"{max(mib, 1):.0f} MiB" if mib < 1024 else f"{mib / 1024:.1f} GiB"


def time_text(seconds: float) -> str:
    """A duration with as many digits as matter."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def hue(name: str) -> int:
    """Degrees on the colour wheel, for a name without a picture."""
    return sum(ord(letter) * (7 * place + 1) for place, letter in enumerate(name)) % 360


def numeric_columns(rows: Sequence[Sequence[Any]], count: int) -> list[bool]:
    """For each of `count` columns, whether it holds nothing but numbers and gaps."""
    return [all(isinstance(row[k], int | float | None) for row in rows) for k in range(count)]


def data_address(data: bytes, kind: str) -> str:
    """A picture file's content inside its own address; `kind` is "jpeg", "png" …"""
    return f"data:image/{kind};base64," + base64.b64encode(data).decode("ascii")


def picture_address(image: Image.Image, kind: str = "jpeg", quality: int = 88) -> str:
    """The same for a picture in memory; `quality` is for JPEG."""
    stream = io.BytesIO()
    image.save(stream, kind, quality=quality)
    return data_address(stream.getvalue(), kind)
