"""Who may call, how much a call may send, and how errors are answered: without a path of this machine."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from secrets import compare_digest
from typing import Any

from fastapi import HTTPException, Request

from lib_loraclr.core.errors import Cancelled, InputError, LoraclrError

LIMIT = 256 * 1024  # bytes of a request; a merge of a hundred LoRAs is some ten thousand
DEPTH = 32
CHALLENGE = {"WWW-Authenticate": "Basic"}


def guard(credentials: Mapping[str, str] | None) -> Callable[[Request], None]:
    """A dependency that lets a request pass with HTTP basic credentials (user -> password), or always for None."""
    known = None if credentials is None else {user.encode(): word.encode() for user, word in credentials.items()}

    def check(request: Request) -> None:
        if known is None:
            return
        user, _, word = _basic(request.headers.get("authorization", "")).partition(b":")
        right = known.get(user)
        # an unknown user costs the same comparison as a known one
        if not compare_digest(word, right if right is not None else word + b"x"):
            message = "Incorrect username or password."
            raise HTTPException(401, _error("not-authorised", message), CHALLENGE)

    return check


async def body_of(request: Request) -> dict[str, Any]:
    """The request's JSON object. 413 for more than LIMIT bytes, whatever the header says; 400 for anything else."""
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > LIMIT:
        raise _too_large()
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > LIMIT:
            raise _too_large()
    try:
        value = json.loads(bytes(data) or b"{}", parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, _error("bad-json", "The request's body is not JSON.")) from error
    if not isinstance(value, dict) or _deeper(value, DEPTH):
        raise HTTPException(400, _error("bad-json", "The request's body is not a JSON object as documented."))
    return value


Body = Callable[[Request], Awaitable[dict[str, Any]]]


def _basic(header: str) -> bytes:
    kind, _, value = header.partition(" ")
    if kind.lower() != "basic":
        return b""
    try:
        return base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b""


def _no_constant(name: str) -> float:
    raise ValueError(name)  # NaN and Infinity are not JSON


def _deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, (dict, list)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(one, levels - 1) for one in inner)


def _too_large() -> HTTPException:
    return HTTPException(413, _error("too-large", f"A request may be {LIMIT // 1024} KiB large."))


def _error(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "file": None, "key": None}


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
