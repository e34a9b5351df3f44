"""Numbers and names in plain words. Literal texts stand alone, so that a host's localisation can translate them."""

from __future__ import annotations

from html import escape

FAMILIES = {"sd1": "SD 1", "sd2": "SD 2", "sdxl": "SDXL", "unknown": "unknown base"}


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


def tag(name: str, text: object, classes: str = "", **attributes: str) -> str:
    """One escaped HTML element; `data_x` becomes `data-x`. None and empty classes are left out."""
    given = {"class": classes, **{key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}}
    inside = "".join(f' {key}="{escape(str(value))}"' for key, value in given.items() if value != "")
    return f"<{name}{inside}>{escape(str(text))}</{name}>"


def note(text: str, kind: str = "info", detail: str = "") -> str:
    """A line of its own for the user: kind info, warning or error. `detail` is set apart (file, key)."""
    role = ' role="alert"' if kind == "error" else ""
    more = f' <span class="lct-soft">{escape(detail)}</span>' if detail else ""
    return f'<p class="lct-note lct-{kind}"{role}><span>{escape(text)}</span>{more}</p>'
