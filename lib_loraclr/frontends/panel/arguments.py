"""The script's two arguments, as the page, the HTTP API, "send to" and other scripts may give them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

OFF = ("", "false", "0", "no", "off", "none")


def read_arguments(given: Sequence[Any]) -> tuple[bool, Any]:
    """(enabled, regions) of `[enabled, spec]`, `[spec]`, `[{"enabled": …, "spec": …}]` or nothing.

    `spec` may be an object, its JSON text, or None. A spec alone means enabled. The spec itself is not checked here.
    """
    arguments = list(given)
    if not arguments:
        return False, None
    first = arguments[0]
    if isinstance(first, str) and first.lstrip().startswith("{"):
        first = _object(first)
    if isinstance(first, Mapping):
        if "spec" in first or "enabled" in first:
            return _flag(first.get("enabled", True)), first.get("spec")
        return True, first
    return _flag(first), arguments[1] if len(arguments) > 1 else None


def _flag(value: Any) -> bool:
    return value.strip().lower() not in OFF if isinstance(value, str) else bool(value)


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {"enabled": True, "spec": text}
