"""Regional layouts as data: check, preview, import. One place for the panel, the HTTP API and the command line."""

from __future__ import annotations

from typing import Any


def check_regions(raw: Any) -> dict[str, Any]:
    return {"problems": []}


def import_regions(raw: Any) -> dict[str, Any]:
    return {}


def weight_maps(raw: Any, width: Any, height: Any) -> dict[str, Any]:
    return {"maps": []}
