"""Errors as HTTP answers: a status, the four fields of every face, and no path of this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fastapi import HTTPException

from lib_loraclr.core.errors import Cancelled, InputError, LoraclrError

STATUS = {
    "unknown-lora": 404, "unknown-task": 404, "no-recipe": 404, "output-exists": 409, "task-exists": 409,
    "checkpoint-switched": 409, "queue-full": 429, "out-of-memory": 507,
}  # fmt: skip


class Names:
    """Takes paths out of texts: what lies in the LoRA folder becomes its name, anything else its last part."""

    def __init__(self, folder: Path) -> None:
        places = {str(folder), str(folder.absolute()), str(folder.resolve())}
        stems = "|".join(re.escape(place) for place in sorted(places, key=len, reverse=True))
        self._inside = re.compile(rf"(?:{stems})[/\\]+")
        self._absolute = re.compile(r"(?<![\w<])(?:[A-Za-z]:)?[/\\](?:[^/\\'\"<>|:*?\n]+[/\\])+")

    def clean(self, value: Any) -> Any:
        """A copy of JSON data without paths."""
        if isinstance(value, str):
            return self._absolute.sub("", self._inside.sub("", value))
        if isinstance(value, dict):
            return {key: self.clean(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.clean(one) for one in value]
        return value

    def error(self, error: LoraclrError) -> dict[str, Any]:
        """The four fields."""
        return self.clean(error.as_dict())

    def http(self, error: LoraclrError) -> HTTPException:
        """The exception that FastAPI answers with."""
        usual = 409 if isinstance(error, Cancelled) else 422 if isinstance(error, InputError) else 500
        return HTTPException(STATUS.get(error.code, usual), self.error(error))
