"""Who may call, and how much a call may send."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Mapping
from secrets import compare_digest
from typing import Any

from fastapi import HTTPException, Request

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
