"""What the panel asks the server: check, preview, token counts, import, layouts. JSON in, JSON out, no exceptions."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from lib_loraclr.core.errors import InputError, LoraclrError
from lib_loraclr.frontends.panel.layouts import LayoutStore
from lib_loraclr.frontends.panel.services import PanelServices, as_json
from lib_loraclr.regional.service import MAX_SIDE, check_regions, import_regions, weight_maps

MAX_TEXTS = 64

Answer = Callable[[Mapping[str, Any]], dict[str, Any]]


class Questions:
    """Answers for one panel."""

    def __init__(self, services: PanelServices, layouts: LayoutStore) -> None:
        self._services, self._layouts = services, layouts
        self._known: dict[str, Answer] = {
            "validate": lambda data: check_regions(data.get("spec")),
            "preview": lambda data: weight_maps(data.get("spec"), data.get("width"), data.get("height")),
            "import": self._import,
            "tokens": self._tokens,
            "concepts": lambda data: {"concepts": as_json(self._services.concepts())},
            "preset-save": self._save,
            "preset-delete": self._delete,
        }

    def answer(self, text: str) -> str:
        """The answer to one question, with its serial number. A failure is `{"error": {code, message, …}}`."""
        serial: Any = None
        try:
            question: Any = json.loads(text)
            serial = question.get("serial")
            known = self._known.get(question.get("question"))
            if known is None:
                raise InputError("bad-question", "The panel asked for something this version does not know.")
            result = known(question)
        except LoraclrError as error:
            result = {"error": error.as_dict()}
        except Exception as error:
            # A defect of ours: the console needs the trace, the panel must not wait for ever.
            traceback.print_exc()
            result = {"error": {"code": "unexpected", "message": f"{type(error).__name__}: {error}"}}
        return json.dumps({"serial": serial, **result}, ensure_ascii=False)

    def _tokens(self, data: Mapping[str, Any]) -> dict[str, Any]:
        texts = data.get("texts")
        if not isinstance(texts, list) or len(texts) > MAX_TEXTS or not all(isinstance(text, str) for text in texts):
            raise InputError("bad-question", "Token counts need a list of texts.", key="texts")
        return {"counts": self._services.count_tokens(texts)}

    def _import(self, data: Mapping[str, Any]) -> dict[str, Any]:
        width, height = data.get("width"), data.get("height")
        known = all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in (width, height))
        return import_regions(data.get("text"), (width, height) if known else (512, 512))

    def _save(self, data: Mapping[str, Any]) -> dict[str, Any]:
        self._layouts.save(str(data.get("name") or ""), str(data.get("spec") or ""))
        return {"presets": self._layouts.listed()}

    def _delete(self, data: Mapping[str, Any]) -> dict[str, Any]:
        self._layouts.delete(str(data.get("name") or ""))
        return {"presets": self._layouts.listed()}
