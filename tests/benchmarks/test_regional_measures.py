"""The regional measurements: budgets and rates by hand, and canvases of the toy testbed that are painted once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_loras import Recorder

from benchmarks.regional import BUDGETS, count_flops, goals
from benchmarks.regional_identity import Gallery, cast_of, gallery_picture, measure
from benchmarks.regional_rates import VARIANTS, identity_table
from benchmarks.tables import regional_cost, regional_identity
from lib_loraclr.merging.options import LoraChoice, MergeOptions
from lib_loraclr.merging.pipeline import merge


def canvas(count: int, variant: str, seen: list[str], cosine: list[float]) -> dict[str, Any]:
    return {"subjects": count, "way": variant, "seed": 0, "wanted": list("abc")[:count], "seen": seen, "cosine": cosine}


def identity(regions: float) -> dict[str, Any]:
    """Plain 0.25 and 0, single 1; `regions` is the share of two subjects in four canvases."""
    right = round(4 * regions)
    canvases = [canvas(2, "plain prompt", ["a", "c"], [0.4, 0.0]), canvas(2, "plain prompt", ["c", "c"], [0.0, 0.0])]
    canvases += [canvas(2, "single", ["a", "b"], [0.8, 0.6]), canvas(3, "plain prompt", ["x", "x", "x"], [0.0] * 3)]
    for k in range(4):
        for variant in ("regions", "regions, isolated"):
            canvases.append(canvas(2, variant, ["a", "b"] if k < right else ["x", "x"], [0.5, 0.5]))
    for variant in ("regions", "regions, isolated", "single"):
        canvases.append(canvas(3, variant, list("abc"), [0.5] * 3))
    return {"identity": {"seeds": 4, "canvases": canvases}}


def test_rates_by_hand() -> None:
    table = identity_table(identity(0.5))
    assert table[2]["plain prompt"] == (0.25, 0.0, 0.1)
    assert table[2]["regions"].everyone == 0.5
    assert table[2]["single"].cosine == pytest.approx(0.7)
    assert {variant: seen.each for variant, seen in table[2].items()} == {
        "plain prompt": 0.25, "regions": 0.5, "regions, isolated": 0.5, "single": 1.0,
    }  # fmt: skip
    assert identity_table({}) == {}  # and a variant that was not painted has no line
    assert "| regions | 50% / 50% / 0.500 | 100% / 100% / 0.500 |" in regional_identity(identity(0.5))


def test_goals_by_hand() -> None:
    extra = [
        {"family": family, "layout": layout, "case": case, "extra_percent": most / parts}
        for (family, layout), most in BUDGETS.items()
        for case, parts in (("own negatives", 1), ("inherited negatives", 2))
    ]
    assert [good for _, good in goals({"flops": {"rows": extra}})] == [True] * 12
    extra[3]["extra_percent"] += 0.01
    assert [good for _, good in goals({"flops": {"rows": extra}})].count(False) == 1
    timed = [{"layout": "2 x 50 %, own negatives", "ratio": 1.234, "cpu_ratio": 1.034}]
    table = regional_cost({"flops": {"rows": extra}, "clock": {"rows": timed}})
    assert "| 2 x 50 %, own negatives | +5.0 % | +9.0 % | 1.23 x |" in table
    assert all(good for _, good in goals(identity(1.0)))
    missed = [sentence for sentence, good in goals(identity(0.25)) if not good]
    assert len(missed) == 3  # neither twice the plain rate nor near the single one, isolated or not
    more = identity(1.0)
    more["identity"]["canvases"].append(canvas(3, "regions, solo", list("abx"), [0.5] * 3))
    assert [sentence.split(":")[0] for sentence, good in goals(more) if not good] == ["3 subjects, regions, solo, each"]


def test_the_budgets_hold_for_sd15() -> None:
    """Counted here, not read from a file: the smallest and the largest of the budgets."""
    rows = count_flops(["sd15"], ["2 x 50 %", "4 x 50 %"])
    reached = {(row["layout"], row["case"]): row["extra_percent"] for row in rows}
    assert reached["2 x 50 %", "own negatives"] <= 5
    assert reached["4 x 50 %", "own negatives"] <= 9
    assert reached["2 x 50 %", "inherited negatives"] <= 2.5
    assert 0 < reached["4 x 50 %", "inherited negatives"] <= 4.5


def test_canvases_are_painted_once(toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tuple(LoraChoice(toy_folder / f"{name}.safetensors", trigger=name) for name in ("zor", "kib", "vex", "pim"))
    out = tmp_path / "merged.safetensors"
    merge(MergeOptions(lora=files, out=out, method="sum"), open_host=pytest.fail, progress=Recorder())
    gallery = Gallery(toy_folder, out)
    assert [one["name"] for one in gallery.concepts] == ["zor", "kib", "vex"]  # the cat is no character
    *_, last = measure(gallery, 1, {})
    assert (last["seeds"], len(last["canvases"])) == (1, 10)
    assert {(one["subjects"], one["way"]) for one in last["canvases"]} == {
        (n, variant) for n in (2, 3) for variant in VARIANTS
    }
    assert last["canvases"][0]["wanted"] == [gallery.concepts[k]["name"] for k in cast_of(0, 2, 3)]
    assert set(identity_table({"identity": last})) == {2, 3}
    gallery_picture(gallery, tmp_path / "canvases.png", seeds=(1,))
    with Image.open(tmp_path / "canvases.png") as picture:
        assert picture.mode == "P"
        assert picture.width > 5 * 3 * 144

    monkeypatch.setattr(gallery, "paint", pytest.fail)
    *_, again = measure(gallery, 1, json.loads(json.dumps(last)))
    assert again["canvases"] == last["canvases"]
