"""The HTTP API: every route, and everything that a caller can do wrong."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lib_loraclr.core.errors import LoraclrError
from lib_loraclr.formats import read_lora
from lib_loraclr.frontends.api.access import LIMIT, Names
from lib_loraclr.frontends.api.routes import PREFIX, WAITING, add_routes
from lib_loraclr.hosts.standalone.application import StandaloneApplication

Finished = Callable[[str], dict[str, Any]]
QUICK = {
    "sampling_steps": 2,
    "prompts": 1,
    "neutral_prompts": 1,
    "held_out_prompts": 1,
    "rounds": 1,
    "distill_steps_per_lora": 1,
}


def detail(answer: Any) -> dict[str, Any]:
    return answer.json()["detail"]


def test_version_schema_and_list_say_what_there_is(client: TestClient, folder: Path) -> None:
    assert client.get("/version").json()["model"] | {"sha256": None} == {
        "name": "tiny_sd1", "family": "sd1", "sha256": None
    }  # fmt: skip
    facts = client.get("/schema").json()
    methods = {method["name"]: method for method in facts["merge"]["methods"]}
    assert methods["sum"]["needs_model"] is False
    assert methods["contrastive"]["needs_model"] is True
    assert {"name", "default", "summary"} <= set(methods["contrastive"]["options"][0])
    loras = client.get("/loras", params={"refresh": True}).json()["loras"]
    assert loras[0] == {"name": "anna", "activation_text": "anna person", "preferred_weight": 0.8}
    assert [one["name"] for one in loras][:4] == ["anna", "ben", "broken", "cleo"]
    assert str(folder) not in client.get("/loras").text


def test_inspect_tells_good_from_broken_files(client: TestClient, folder: Path) -> None:
    good = client.get("/loras/anna").json()
    assert (good["ok"], good["name"], good["family"], good["file"]) == (True, "anna", "sd1", None)
    broken = client.get("/loras/broken").json()
    assert broken["ok"] is False
    assert broken["error"]["file"] == "broken.safetensors"
    assert str(folder) not in json.dumps(broken)
    missing = client.get("/loras/nobody")
    assert (missing.status_code, detail(missing)["code"]) == (404, "unknown-lora")


def test_overlap_is_symmetric_with_ones_on_the_diagonal(client: TestClient) -> None:
    matrix = client.post("/overlap", json={"loras": ["anna", {"name": "ben"}]}).json()["matrix"]
    assert matrix[0][0] == pytest.approx(1, abs=1e-5)
    assert matrix[0][1] == matrix[1][0]
    for body in ({"loras": ["anna"]}, {"loras": ["anna", "ben"], "kind": "all"}, {}):
        assert client.post("/overlap", json=body).status_code == 422


def test_a_merge_is_queued_runs_and_leaves_its_recipe(client: TestClient, finished: Finished, folder: Path) -> None:
    body = {
        "name": "two", "loras": [{"name": "anna", "weight": 0.5}, {"name": "ben", "te_weight": 0.25}],
        "preset": "instant", "method": "sum", "dtype": "fp32", "task": "task(mine)",
    }  # fmt: skip
    answer = client.post("/merge", json=body)
    assert (answer.status_code, answer.json()) == (202, {"task": "task(mine)"})
    state = finished("task(mine)")
    assert (state["fraction"], state["result"]["out"], state["result"]["method"]) == (1.0, "two.safetensors", "sum")
    merged, anna, ben = (read_lora(folder / f"{name}.safetensors") for name in ("two", "anna", "ben"))
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    expected = 0.5 * anna.layers[name].delta(None).dense() + ben.layers[name].delta(None).dense()
    assert (merged.layers[name].delta(None).dense() - expected).abs().max() < 1e-5
    recipe = client.get("/recipes/two").json()["recipe"]
    assert [(entry["file"], entry["weight"]) for entry in recipe["inputs"]] == [
        ("anna.safetensors", 0.5), ("ben.safetensors", 1.0)
    ]  # fmt: skip
    assert "two" in [one["name"] for one in client.get("/loras").json()["loras"]]
    again = client.post("/merge", json={**body, "task": "task(other)"})
    assert (again.status_code, detail(again)["code"]) == (409, "output-exists")
    none = client.get("/recipes/anna")
    assert (none.status_code, detail(none)["code"]) == (404, "no-recipe")


def test_a_captured_merge_reports_fidelity(client: TestClient, finished: Finished) -> None:
    loras = [{"name": name, "trigger": f"{name} person"} for name in ("anna", "cleo")]
    task = client.post("/merge", json={"name": "captured", "loras": loras, "option": QUICK}).json()["task"]
    concepts = finished(task)["result"]["concepts"]
    assert [concept["name"] for concept in concepts] == ["anna", "cleo"]
    assert all(concept["kept"] is not None for concept in concepts)


@pytest.mark.parametrize(
    "name", ["../out", "a/b", "..", ".hidden", "con", "C:\\x", "a\x00b", "", "x" * 300, "/etc/x", "a:b", None, 7]
)
def test_an_output_name_is_never_a_path(client: TestClient, folder: Path, name: Any) -> None:
    before = sorted(path for path in folder.parent.rglob("*"))
    answer = client.post("/merge", json={"name": name, "loras": ["anna", "ben"], "preset": "instant"})
    assert (answer.status_code, detail(answer)["code"]) == (422, "bad-output-name")
    assert sorted(path for path in folder.parent.rglob("*")) == before


@pytest.mark.parametrize(
    "lora", ["../anna", "loras/anna", "{folder}/anna.safetensors", "anna.safetensors", "", 3, ["anna"], "%2e%2e/anna"]
)
def test_a_lora_is_found_by_its_name_alone(client: TestClient, folder: Path, lora: Any) -> None:
    named = lora.format(folder=folder) if isinstance(lora, str) else lora
    answer = client.post("/merge", json={"name": "new", "loras": [{"name": named}, "ben"], "preset": "instant"})
    assert (answer.status_code, detail(answer)["code"]) == (404, "unknown-lora")
    if isinstance(named, str) and named and not named.startswith("/"):
        assert client.get(f"/loras/{named.replace('/', '%2F')}").status_code == 404
    assert str(folder) not in answer.text.replace(str(named), "")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"checkpoint": "/etc/passwd"}, "bad-option"), ({"cache": "/tmp"}, "bad-option"),
        ({"report": "/tmp"}, "bad-option"), ({"out": "/tmp/x.safetensors"}, "bad-option"),
        ({"device": "cuda:9"}, "bad-option"), ({"method": "magic"}, None), ({"rank": "many"}, "bad-rank"),
        ({"loras": []}, "empty-selection"), ({"loras": "anna"}, "empty-selection"),
        ({"loras": [{"name": "anna", "file": "/etc/passwd"}]}, "bad-option"),
        ({"loras": [{"name": "anna", "weight": "much"}]}, None), ({"option": {"margin": 1}}, None),
        ({"task": "../../x"}, "bad-option"), ({"task": 5}, "bad-option"), ({"loras": ["anna"] * 300}, "bad-option"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_told_before_anything_is_queued(
    client: TestClient, change: dict[str, Any], code: str | None
) -> None:
    body = {"name": "new", "loras": ["anna", "ben"], "preset": "instant", "method": "sum", **change}
    answer = client.post("/merge", json=body)
    assert answer.status_code == 422
    assert set(detail(answer)) == {"code", "message", "file", "key"}
    if code is not None:
        assert detail(answer)["code"] == code


def test_oversized_and_malformed_bodies_are_refused(client: TestClient) -> None:
    def parts() -> Iterator[bytes]:  # no length announced
        for _ in range(LIMIT // 1024 + 2):
            yield b" " * 1024

    assert client.post("/merge", content=parts()).status_code == 413
    assert client.post("/merge", content=b" " * (LIMIT + 1)).status_code == 413
    for content in (b"{", b"[]", b"\xff", b'{"a": NaN}', b'{"a":' * 5000, b'{"a":' * 40 + b"1" + b"}" * 40):
        answer = client.post("/merge", content=content)
        assert (answer.status_code, detail(answer)["code"]) == (400, "bad-json")


def test_no_route_works_without_credentials(application: StandaloneApplication) -> None:
    app = FastAPI()
    add_routes(app, application, {"user": "pass:word", "other": "x"})
    routes = [(m, r.path) for r in app.routes if r.path.startswith(PREFIX) for m in r.methods]
    assert len(routes) == 9

    def header(text: str) -> dict[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(text.encode()).decode()}

    wrong = [{}, header("user:pass"), header("user:"), header("nobody:x"), header("user"), header(":"),
             {"Authorization": "Basic ???"}, {"Authorization": "Bearer x"}]  # fmt: skip
    with TestClient(app) as client:
        for method, path in routes:
            for headers in wrong:
                url = path.replace("{name:path}", "anna").replace("{task}", "x")
                answer = client.request(method, url, headers=headers)
                assert answer.status_code == 401, (method, path, headers)
                assert answer.headers["www-authenticate"] == "Basic"
        for text in ("user:pass:word", "other:x"):
            assert client.get(PREFIX + "/version", headers=header(text)).status_code == 200


def test_two_merges_at_once_run_one_after_the_other_and_one_is_cancelled(
    client: TestClient, finished: Finished, application: StandaloneApplication, folder: Path
) -> None:
    def ask(name: str) -> str:
        body = {"name": name, "loras": ["anna", "ben"], "preset": "instant", "method": "sum", "task": f"task({name})"}
        answer = client.post("/merge", json=body)
        assert answer.status_code == 202, answer.text
        return answer.json()["task"]

    with application.jobs.scope("something else", "task(busy)"):
        first, second = ask("first"), ask("second")
        assert {client.get(f"/tasks/{task}").json()["state"] for task in (first, second)} == {"waiting"}
        twice = client.post("/merge", json={"name": "third", "loras": ["anna", "ben"], "preset": "instant",
                                            "method": "sum", "task": first})  # fmt: skip
        assert (twice.status_code, detail(twice)["code"]) == (409, "task-exists")
        assert client.post(f"/tasks/{second}/cancel").json() == {"cancelled": True}
        assert finished(second)["error"]["code"] == "cancelled"
    assert finished(first)["result"]["out"] == "first.safetensors"
    assert not (folder / "second.safetensors").exists()
    assert client.post(f"/tasks/{first}/cancel").json() == {"cancelled": False}
    assert client.get("/tasks/task(never)").status_code == 404
    assert client.post("/tasks/task(never)/cancel").status_code == 404


def test_of_two_queued_merges_with_one_name_the_second_replaces_nothing(
    client: TestClient, finished: Finished, application: StandaloneApplication, folder: Path
) -> None:
    body = {"name": "twin", "preset": "instant", "method": "sum"}
    with application.jobs.scope("something else", "task(busy)"):
        first = client.post("/merge", json={**body, "loras": ["anna", "ben"]}).json()["task"]
        second = client.post("/merge", json={**body, "loras": ["anna", "cleo"]}).json()["task"]
    results = {finished(first).get("error", {}).get("code"), finished(second).get("error", {}).get("code")}
    assert results == {None, "output-exists"}
    won = first if "result" in finished(first) else second
    names = [entry["file"] for entry in client.get("/recipes/twin").json()["recipe"]["inputs"]]
    assert names == ["anna.safetensors", "ben.safetensors" if won == first else "cleo.safetensors"]
    assert sorted(path.name for path in folder.glob("twin*")) == ["twin.json", "twin.safetensors"]


def test_the_queue_has_an_end(client: TestClient, finished: Finished, application: StandaloneApplication) -> None:
    body = {"loras": ["anna", "ben"], "preset": "instant", "method": "sum"}
    with application.jobs.scope("something else", "task(busy)"):
        tasks = [client.post("/merge", json={**body, "name": f"q{n}"}).json()["task"] for n in range(WAITING)]
        full = client.post("/merge", json={**body, "name": "one-more"})
        assert (full.status_code, detail(full)["code"]) == (429, "queue-full")
        for task in tasks:
            client.post(f"/tasks/{task}/cancel")
    assert all(finished(task)["error"]["code"] == "cancelled" for task in tasks)


def test_a_checkpoint_that_changes_in_the_middle_ends_the_merge(
    client: TestClient, finished: Finished, application: StandaloneApplication, folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    host = application.open_host(None, "cpu")
    calls = threading.Event()

    def sample(*_: Any, **__: Any) -> Any:
        calls.set()
        raise LoraclrError("checkpoint-switched", "Another checkpoint was loaded while the job ran.")

    monkeypatch.setattr(host, "sample", sample)
    body = {"name": "switched", "loras": [{"name": "anna", "trigger": "x"}, {"name": "ben", "trigger": "y"}],
            "option": QUICK | {"sampling_steps": 3}}  # fmt: skip
    state = finished(client.post("/merge", json=body).json()["task"])
    assert calls.is_set()
    assert state["error"]["code"] == "checkpoint-switched"
    assert not (folder / "switched.safetensors").exists()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in host.layers().values())


def test_full_memory_and_defects_end_with_a_clear_message(
    client: TestClient, finished: Finished, application: StandaloneApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = application.open_host(None, "cpu")
    body = {"loras": [{"name": "anna", "trigger": "x"}, {"name": "ben", "trigger": "y"}], "option": QUICK}
    for name, error, code in (
        ("full", RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out-of-memory"),
        ("defect", ZeroDivisionError("/secret/place"), "unexpected"),
    ):

        def fail(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(host, "encode", fail)
        state = finished(client.post("/merge", json={**body, "name": name}).json()["task"])
        assert state["error"]["code"] == code
        assert "secret" not in json.dumps(state)


def test_paths_are_taken_out_of_every_text(tmp_path: Path) -> None:
    names = Names(tmp_path)
    assert names.clean(f"'{tmp_path}/sub/a.safetensors' is odd") == "'sub/a.safetensors' is odd"
    assert names.clean({"file": "/home/user/x y/b.safetensors", "n": [1, "C:\\Users\\me\\c.txt"]}) == {
        "file": "b.safetensors", "n": [1, "c.txt"]
    }  # fmt: skip
    assert names.clean("weights 1/2 and and/or stay") == "weights 1/2 and and/or stay"


def test_the_documented_example_runs(
    application: StandaloneApplication,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import httpx

    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    source = text.split("```python\n")[1].split("```")[0]
    app = FastAPI()
    add_routes(app, application, {"user": "password"})

    def local(base_url: str, auth: tuple[str, str]) -> TestClient:
        client = TestClient(app, base_url=base_url)
        client.auth = auth
        return client

    monkeypatch.setattr(httpx, "Client", local)
    exec(compile(source.replace("sleep(1)", "sleep(0.05)"), "docs/api.md", "exec"), {})
    assert (folder / "anna and ben.safetensors").is_file()
    assert "'out': 'anna and ben.safetensors'" in capsys.readouterr().out


def test_the_document_lists_every_route_and_field(application: StandaloneApplication) -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    app = FastAPI()
    add_routes(app, application, None)
    for route in app.routes:
        if route.path.startswith(PREFIX):
            path = route.path[len(PREFIX) :].replace("{name:path}", "NAME").replace("{task}", "TASK")
            assert f"| `{min(route.methods)} {path}" in text, route.path
    with TestClient(app) as client:
        facts = client.get(PREFIX + "/schema").json()["merge"]
    for field in (*facts["fields"], *facts["lora_fields"]):
        assert f"`{field}`" in text, field
