"""A server over the standalone application with the tiny checkpoint, and three LoRAs made for it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastapi
import pytest
import torch
from fastapi.testclient import TestClient

from lib_loraclr.frontends.api.routes import PREFIX, add_routes
from lib_loraclr.hosts.standalone.application import StandaloneApplication

sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))
from tiny_loras import lora_tensors, write_lora_file


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """anna, ben and cleo, and a file that is none."""
    place = tmp_path_factory.mktemp("api") / "loras"
    place.mkdir()
    for seed, name in enumerate(("anna", "ben", "cleo")):
        write_lora_file(place / f"{name}.safetensors", lora_tensors(seed))
        (place / f"{name}.json").write_text(json.dumps({"activation text": f"{name} person", "preferred weight": 0.8}))
    (place / "broken.safetensors").write_bytes(b"not a file of tensors")
    return place


@pytest.fixture(scope="session")
def application(folder: Path, tiny_sd1: Path) -> StandaloneApplication:
    """One application for all tests: the checkpoint is loaded once."""
    return StandaloneApplication(folder, tiny_sd1, device="cpu", cache=folder.parent / "cache")


@pytest.fixture
def client(application: StandaloneApplication) -> Iterator[TestClient]:
    """The API without credentials."""
    torch.set_num_threads(1)
    app = fastapi.FastAPI()
    add_routes(app, application, None)
    with TestClient(app, base_url="http://test" + PREFIX) as one:
        yield one


@pytest.fixture
def finished(client: TestClient) -> Callable[[str], dict[str, Any]]:
    """Waits for a task and returns its last state."""

    def wait(task: str) -> dict[str, Any]:
        end = time.monotonic() + 600
        while time.monotonic() < end:
            state = client.get(f"/tasks/{task}").json()
            if state["state"] == "done":
                return state
            time.sleep(0.1)
        raise AssertionError(f"{task} did not end")

    return wait
