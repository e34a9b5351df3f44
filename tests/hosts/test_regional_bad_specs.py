"""Regions that cannot be read: the panel says it, the picture's text says it, and the picture is the plain one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "regional"))

from fake_webui import Processing
from regional_drivers import A1111, latents
from regional_toys import hooks

BOX = {"t": "box", "r": [0, 0, 0.5, 1]}
GOOD = {"shape": BOX, "prompt": "a red cat"}


def one(shape: Any, **more: Any) -> dict[str, Any]:
    return {"regions": [GOOD, {"shape": shape, "prompt": "x", **more}]}


BAD: dict[str, tuple[Any, str]] = {
    "broken JSON": ('{"regions": [', "not valid JSON"),
    "a list": ("[1, 2]", "JSON object"),
    "a number": (7, "JSON object"),
    "deep nesting": ("[" * 100_000, "not valid JSON"),
    "a box without area": (one({"t": "box", "r": [0.5, 0, 0.5, 1]}), "no area"),
    "a box outside": (one({"t": "box", "r": [1.5, 0, 2, 1]}), "no area"),
    "200 regions": ({"regions": [GOOD] * 200}, "at most 64"),
    "NaN": (json.dumps(one({"t": "box", "r": [float("nan"), 0, 1, 1]})), "finite number"),
    "infinity": (one(BOX, strength=float("inf")), "finite number"),
    "a mask of another size": (one({"t": "mask", "w": 64, "h": 64, "bits": 1, "z": "eJxjYAACAAAEAAE="}), "mask"),
    "a mask that is no mask": (one({"t": "mask", "w": 8, "h": 8, "bits": 1, "z": "!"}), "mask"),
    "no shape": ({"regions": [{"prompt": "x"}]}, "shape"),
    "a shape from the future": (one({"t": "spline", "p": []}), "no shape 'spline'"),
    "a newer version": ({"v": 2, "regions": [GOOD], "flux": {"a": 1}}, "version 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_layout_is_said_and_the_picture_is_plain(
    a1111: A1111, name: str, monkeypatch: Any, tmp_path: Path
) -> None:
    raw, words = BAD[name]
    from lib_loraclr.frontends.panel.layouts import LayoutStore
    from lib_loraclr.frontends.panel.questions import panel_bridge
    from lib_loraclr.frontends.panel.script import RegionalScript
    from lib_loraclr.frontends.panel.services import NoServices

    script = RegionalScript(a1111.host)
    text = raw if isinstance(raw, str) else json.dumps(raw)
    question = json.dumps({"serial": 1, "question": "validate", "spec": text})
    answer = json.loads(panel_bridge(NoServices(), LayoutStore(tmp_path)).answer(question))
    assert words in " ".join(problem["message"] for problem in answer["problems"])

    p, x = Processing(["two"], ["bad"]), latents(1)
    before = dict(vars(p))
    script.begin(p, [True, raw])
    script.before_batch(p, p.prompts)
    script.before_sampling(p)
    script.start_pass(p, x)
    assert words in p.extra_generation_params["Regional notes"]
    assert "Regional" not in p.extra_generation_params
    assert len(p.comments) == 1
    assert words in p.comments[0]
    assert hooks(a1111.unet) == 0
    assert a1111.shared.sd_model.encoded == []
    assert p.prompts == ["two"]
    assert set(vars(p)) == set(before)
    script.end(p)


def test_unknown_keys_are_kept_and_the_rest_acts(a1111: A1111) -> None:
    from lib_loraclr.frontends.panel.script import RegionalScript
    from lib_loraclr.frontends.panel.session import session_of

    script = RegionalScript(a1111.host)
    p = Processing(["two"], ["bad"])
    script.begin(p, [True, {"regions": [{**GOOD, "glow": 3}], "fog": {"x": 1}}])
    assert session_of(p) is not None
    kept = json.loads(p.extra_generation_params["Regional"])
    assert (kept["fog"], kept["regions"][0]["glow"]) == ({"x": 1}, 3)
    script.end(p)


@pytest.fixture
def a1111(monkeypatch: pytest.MonkeyPatch) -> A1111:
    return A1111(monkeypatch)
