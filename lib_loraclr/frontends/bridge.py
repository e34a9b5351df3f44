"""What a page's script asks this process: named questions, JSON in, JSON out, no exceptions.

`gradio_compat.endpoint` puts a bridge on the page; `javascript/loraclr_bridge.js` is its other end.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from lib_loraclr.core.errors import InputError, LoraclrError

LOG = logging.getLogger("loraclr")

Answer = Callable[[Mapping[str, Any]], dict[str, Any]]


class Bridge:
    """Answers questions by name. Every answer is called with the whole question and returns JSON values."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self._answers = answers

    def answer(self, text: str) -> str:
        """The answer to `{"serial": …, "question": name, …}` with its serial number.

        A failure is an answer too: `{"serial": …, "error": {code, message, …}}`.
        """
        serial: Any = None
        try:
            question: Any = json.loads(text)
            serial = question.get("serial")
            answer = self._answers.get(question.get("question"))
            if answer is None:
                raise InputError("bad-question", "The page asked for something this version does not know.")
            result = answer(question)
        except LoraclrError as error:
            result = {"error": error.as_dict()}
        except Exception as error:
            # A defect of ours: the console needs the trace, the page must not wait for ever.
            LOG.exception("A question of the page failed.")
            result = {"error": {"code": "unexpected", "message": f"{type(error).__name__}: {error}"}}
        return json.dumps({"serial": serial, **result}, ensure_ascii=False)
