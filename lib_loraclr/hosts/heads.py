"""How many heads the attention around a layer has, read off the modules: all code bases keep it as an attribute."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

NAMES = ("heads", "num_heads")  # the original code base and diffusers; transformers and open_clip


def head_counts(roots: Iterable[nn.Module]) -> dict[int, int]:
    """id of a module -> number of heads, for every module below `roots` that has one, and for its direct children."""
    counts: dict[int, int] = {}
    for root in roots:
        for module in root.modules():
            found = next((value for value in (getattr(module, name, None) for name in NAMES) if _counts(value)), None)
            if found is not None:
                counts |= {id(part): found for part in (module, *module.children())}
    return counts


def _counts(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
