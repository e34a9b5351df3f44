"""Registering callbacks by name of the file, without the WebUI's walk through the call stack for each of them.

The walk looks at every loaded module, for each callback again: more work than everything else that our scripts do when
the WebUI starts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modules import script_callbacks


def register(file: str, **callbacks: Callable[..., Any]) -> None:
    """`script_callbacks.on_<name>(callback)` for each of `callbacks`, in the name of the script `file`."""
    for name, callback in callbacks.items():
        _add(file, name, callback)


def _add(file: str, name: str, callback: Callable[..., Any]) -> None:
    try:
        known = script_callbacks.callback_map[f"callbacks_{name}"]
        script_callbacks.add_callback(known, callback, category=name, filename=file)
    except (AttributeError, KeyError, TypeError):  # a WebUI that keeps its callbacks in another way
        getattr(script_callbacks, f"on_{name}")(callback)
