"""What the panel asks the server: check, preview, token counts, import, layouts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib_loraclr.core.errors import InputError
from lib_loraclr.frontends.bridge import Bridge
from lib_loraclr.frontends.panel.layouts import LayoutStore
from lib_loraclr.frontends.panel.services import PanelServices, as_json
from lib_loraclr.regional.layout import check_regions, import_regions
from lib_loraclr.regional.preview import MAX_SIDE, weight_maps

MAX_TEXTS = 64


def panel_bridge(services: PanelServices, layouts: LayoutStore) -> Bridge:
    """The questions of one panel."""

    def save(question: Mapping[str, Any]) -> dict[str, Any]:
        layouts.save(str(question.get("name") or ""), str(question.get("spec") or ""))
        return {"presets": layouts.listed()}

    def delete(question: Mapping[str, Any]) -> dict[str, Any]:
        layouts.delete(str(question.get("name") or ""))
        return {"presets": layouts.listed()}

    return Bridge({
        "validate": lambda question: check_regions(question.get("spec")),
        "preview": lambda question: weight_maps(question.get("spec"), question.get("width"), question.get("height")),
        "import": _import,
        "tokens": lambda question: {"counts": services.count_tokens(_texts(question))},
        "concepts": lambda question: {"concepts": as_json(services.concepts())},
        "preset-save": save,
        "preset-delete": delete,
    })  # fmt: skip


def _texts(question: Mapping[str, Any]) -> list[str]:
    texts = question.get("texts")
    if not isinstance(texts, list) or len(texts) > MAX_TEXTS or not all(isinstance(text, str) for text in texts):
        raise InputError("bad-question", "Token counts need a list of texts.", key="texts")
    return texts


def _import(question: Mapping[str, Any]) -> dict[str, Any]:
    sides = [side for side in (question.get("width"), question.get("height")) if isinstance(side, int)]
    known = len(sides) == 2 and all(0 < side <= MAX_SIDE for side in sides)
    return import_regions(question.get("text"), (sides[0], sides[1]) if known else (512, 512))
