"""HTML from the package's Jinja2 templates: one environment for pages and fragments.

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
    filters: dict[str, Any] = {"percent": percent, "numeric_columns": numeric_columns}
    made.filters.update(filters)
    return made


def percent(share: float) -> str:
    """0.25 as 25%."""
    return f"{share:.0%}"


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
