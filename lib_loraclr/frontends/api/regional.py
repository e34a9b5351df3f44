"""Routes of the regional prompter: schema, validate, preview, import. They need no model and change nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request

from lib_loraclr.core.errors import LoraclrError
from lib_loraclr.frontends.api.access import guard
from lib_loraclr.regional import spec_schema
from lib_loraclr.regional.layout import check_regions, import_regions
from lib_loraclr.regional.preview import MAX_SIDE, weight_maps

PREFIX = "/loraclr/v1/regional"
LIMIT = 8 * 1024 * 1024  # bytes of a request: masks travel in it
LONG_TEXT = 100_000  # characters of a prompt to import


def add_regional_routes(app: FastAPI, credentials: Mapping[str, str] | None) -> None:
    """Put the routes on a FastAPI app; each asks for `credentials` (user -> password) unless they are None."""
    router = APIRouter(prefix=PREFIX, dependencies=[Depends(guard(credentials))], tags=["LoRACLR"])
    router.add_api_route("/schema", schema, methods=["GET"])
    router.add_api_route("/validate", validate, methods=["POST"])
    router.add_api_route("/preview", preview, methods=["POST"])
    router.add_api_route("/import", import_text, methods=["POST"])
    app.include_router(router)


async def regional_body(request: Request) -> dict[str, Any]:
    """The request's JSON object. 413 for more than LIMIT bytes, 400 for anything that is not a JSON object."""
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > LIMIT:
            raise HTTPException(413, _error("too-large", f"A request may be {LIMIT // 1024} KiB large."))
    try:
        value = json.loads(bytes(data) or b"{}")
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, _error("bad-json", "The request's body is not JSON.")) from error
    if not isinstance(value, dict):
        raise HTTPException(400, _error("bad-json", "The request's body is not a JSON object."))
    return value


def schema() -> dict[str, Any]:
    """JSON Schema of the regions, as the script's second argument, the infotext and a saved layout hold them."""
    return spec_schema()


def validate(body: dict[str, Any] = Depends(regional_body)) -> dict[str, Any]:  # noqa: B008
    """{"spec": what can be used of it, "problems": […]} of {"spec": regions as object or text}."""
    return _answer(check_regions, body.get("spec"))


def preview(body: dict[str, Any] = Depends(regional_body)) -> dict[str, Any]:  # noqa: B008
    """{"maps": [{label, png}]} of {"spec", "width", "height"}: the weights that sampling would use, as data URLs."""
    return _answer(weight_maps, body.get("spec"), body.get("width", 512), body.get("height", 512))


def import_text(body: dict[str, Any] = Depends(regional_body)) -> dict[str, Any]:  # noqa: B008
    """{"spec", "notes"} and prompts of {"text": another program's notation, "width", "height"}."""
    text = body.get("text")
    if isinstance(text, str) and len(text) > LONG_TEXT and not text.lstrip().startswith("{"):
        raise HTTPException(413, _error("too-large", f"A text may be {LONG_TEXT} characters long."))
    sides = [body.get(name) for name in ("width", "height")]
    known = all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in sides)
    return _answer(import_regions, text, tuple(sides) if known else (512, 512))


def _answer(job: Callable[..., dict[str, Any]], *given: Any) -> dict[str, Any]:
    try:
        return job(*given)
    except LoraclrError as error:
        raise HTTPException(422, error.as_dict()) from error


def _error(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "file": None, "key": None}
