"""The regional routes: schema, validate, preview, import, with and without credentials."""

from __future__ import annotations

from typing import Any

import pytest

fastapi = pytest.importorskip("fastapi")

from fastapi.testclient import TestClient  # noqa: E402

from lib_loraclr.frontends.api.regional import LIMIT, PREFIX, add_regional_routes  # noqa: E402

SPEC = {"regions": [{"shape": {"t": "box", "r": [0, 0, 0.5, 1]}, "prompt": "x"}]}


def client_of(credentials: dict[str, str] | None) -> Any:
    app = fastapi.FastAPI()
    add_regional_routes(app, credentials)
    return TestClient(app, base_url="http://test" + PREFIX)


def test_schema_validate_preview_import() -> None:
    with client_of(None) as client:
        assert client.get("/schema").json()["properties"]["regions"]["type"] == "array"
        assert client.post("/validate", json={"spec": SPEC}).json()["problems"] == []
        assert client.post("/validate", json={"spec": {"regions": [{}]}}).json()["problems"][0]["key"]
        maps = client.post("/preview", json={"spec": SPEC, "width": 64, "height": 64}).json()["maps"]
        assert maps[0]["png"].startswith("data:image/png;base64,")
        found = client.post("/import", json={"text": "a BREAK b"}).json()
        assert len(found["spec"]["regions"]) == 2


@pytest.mark.parametrize(
    ("route", "content", "status"),
    [
        ("/validate", b"[1]", 400), ("/validate", b"{", 400), ("/preview", b'{"spec": "{"}', 422),
        ("/import", b'{"text": 3}', 422), ("/validate", b" " * (LIMIT + 1), 413),
    ],
)  # fmt: skip
def test_bad_requests(route: str, content: bytes, status: int) -> None:
    with client_of(None) as client:
        assert client.post(route, content=content).status_code == status


def test_every_route_asks_for_the_credentials() -> None:
    with client_of({"user": "pass:word"}) as client:
        for route in ("/validate", "/preview", "/import"):
            assert client.post(route, json={}).status_code == 401
        assert client.get("/schema").status_code == 401
        assert client.get("/schema", auth=("user", "wrong")).status_code == 401
        assert client.get("/schema", auth=("user", "pass:word")).status_code == 200
