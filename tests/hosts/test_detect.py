"""Which adapter is chosen: by modules that are there, never by a name."""

from __future__ import annotations

import sys

import pytest

from lib_loraclr.core.errors import InputError
from lib_loraclr.hosts import detect


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "_application", None)
    for name in ("backend.memory_management", "ldm_patched.modules.model_management", "modules.sd_models", "ldm"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_outside_of_a_webui_nothing_is_chosen() -> None:
    with pytest.raises(InputError) as caught:
        detect.webui_application()
    assert caught.value.code == "unsupported-host"


def test_reload_ui_gets_the_same_application(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr(detect, "_make", lambda: made.append(object()) or made[-1])
    assert detect.webui_application() is detect.webui_application()
    assert len(made) == 1
