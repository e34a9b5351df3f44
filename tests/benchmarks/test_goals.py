"""The goals, from rows made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.goals import goals, main


def row(method: str, n: int, draw: int, identity: float, drift: float = 0.1, **options: object) -> dict:
    return {"method": method, "options": options, "n": n, "draw": draw, "text": 0.9, "image": identity,
            "identity_cosine": identity, "identity_rate": 1.0, "worst_identity_cosine": identity - 0.1,
            "drift": drift}  # fmt: skip


def rows(default: float, other: float, distilled: float = 0.0) -> list[dict]:
    """Two draws that differ by 0.1 for everybody; the other methods' leads over themselves vary by 0.02."""
    found = []
    for n in (8, 12):
        for draw in (0, 1):
            found += [
                row("single", n, draw, 0.7 + 0.1 * draw),
                row("gradient-fusion", n, draw, default + 0.1 * draw, preset="distilled"),
                row("gradient-fusion", n, draw, other + 0.08 * draw, 0.5, published=True),
                row("contrastive", n, draw, distilled + 0.08 * draw, preset="distilled"),
            ]  # fmt: skip
    return found


def test_all_reached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = goals(rows(0.7, 0.5))
    assert [goal.reached for goal in found] == [True] * 9
    assert found[0].asked == pytest.approx(0.98 * 0.75)
    assert found[4].asked == pytest.approx(0.5 / 4)
    # leads .2 and .22: mean .21, standard deviation .02 / sqrt 2
    assert found[7].measured == pytest.approx(0.21)
    assert found[7].asked == pytest.approx(0.02 / 2**0.5)
    assert found[7].name.endswith("N = 12, over gradient fusion, as published")
    assert found[8].name.endswith("N = 12, over contrastive, distilled")
    (tmp_path / "fidelity.json").write_text(json.dumps(rows(0.7, 0.5)))
    assert main(["--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("reached") == 9


def test_missed_and_unmeasured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = goals(rows(0.5, 0.495))
    # .55 of .75; worst .45 against .9 * .65; text and drift as good; leads .005 and .025, spread .014: just ahead
    assert [goal.reached for goal in found] == [False, False, False, True, True, True, True, True, True]
    within = goals(rows(0.5, 0.5))[5:]
    assert [goal.reached for goal in within] == [False, True, False, True], "a lead within the spread is none"
    within = goals(rows(0.7, 0.5, 0.7))[5:]
    assert [goal.reached for goal in within] == [True, False, True, False], "nor is one over a distilled method"
    assert {goal.reached for goal in goals([])} == {None}
    assert main(["--results", str(tmp_path)]) == 1
    assert "not measured" in capsys.readouterr().out
