"""Blind ratings: order, file, means; what a hostile folder or name can do."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from lib_loraclr.core.errors import InputError
from lib_loraclr.evaluation.ratings import Rating, Trial, append, mean_of, order_for, read, summary, trials_of
from lib_loraclr.frontends.cli import main
from lib_loraclr.frontends.rating import RatingPage

VARIANTS = ("ours", "stacked")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two concepts, two variants, two pictures each, as version 0.1.0 wrote them."""
    variants = []
    for variant in VARIANTS:
        pictures = {}
        for concept in ("anna", "ben"):
            names = [f"pictures/{variant}/{concept}-{k}.png" for k in (1, 2)]
            for name in names:
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), "red").save(tmp_path / name)
            pictures[concept] = names
        variants.append({"name": variant, "label": variant, "pictures": pictures})
    concepts = [{"name": name, "references": [f"{name}.png"], "prompts": ["a <b>", "c"]} for name in ("anna", "ben")]
    for concept in concepts:
        Image.new("RGB", (8, 8), "blue").save(tmp_path / concept["references"][0])
    data = {"format": 1, "settings": {}, "concepts": concepts, "ways": variants, "rows": []}
    (tmp_path / "evaluation.json").write_text(json.dumps(data))
    return tmp_path


def test_trials_are_all_pictures(folder: Path) -> None:
    trials = trials_of(folder)
    assert len(trials) == 8
    assert {(t.variant, t.concept) for t in trials} == {(w, c) for w in VARIANTS for c in ("anna", "ben")}
    assert trials[1].prompt == "c"
    assert trials[0].references == (folder / "anna.png",)


def test_only_pictures_of_the_folder_are_shown(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "secret.png"
    Image.new("RGB", (8, 8)).save(elsewhere)
    data = json.loads((folder / "evaluation.json").read_text())
    data["ways"][0]["pictures"]["anna"] = [str(elsewhere), "../" + elsewhere.parent.name + "/secret.png", "none.png"]
    (folder / "evaluation.json").write_text(json.dumps(data))
    assert {t.picture.is_relative_to(folder) for t in trials_of(folder)} == {True}
    assert len(trials_of(folder)) == 6


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"concepts": [], "ways": []}', '{"concepts": [1], "ways": [2]}'])
def test_what_is_no_evaluation(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(InputError):
        trials_of(tmp_path)
    assert main(["rate", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def trials(variants: int, pictures: int) -> list[Trial]:
    return [
        Trial(f"w{w}", "c", "", Path(f"c-{k}.png"), (Path("r.png"),)) for w in range(variants) for k in range(pictures)
    ]


def test_variants_take_turns_in_an_order_of_the_raters_own() -> None:
    many = trials(3, 20)
    order = order_for("ann", many, [])
    assert sorted(order) == list(range(60))
    for first in range(0, 60, 3):
        assert {many[k].variant for k in order[first : first + 3]} == {"w0", "w1", "w2"}
    assert order == order_for("ann", many, [])
    assert order != order_for("bob", many, [])
    first = {many[order[k]].variant for k in range(0, 60, 3)}
    assert len(first) > 1, "the first of a turn is not always the same variant"
    done = [Rating("ann", many[k].variant, "c", many[k].picture.name, 3, 3) for k in order[:10]]
    left = order_for("ann", many, done)
    assert sorted(left) == sorted(order[10:])
    assert len(order_for("bob", many, done)) == 60


def test_ratings_are_kept(folder: Path) -> None:
    lines = [Rating("ann, b", "ours", "anna", "anna-1.png", 5, 4), Rating("=cmd()", "stacked", "ben", "b.png", 1, 2)]
    for line in lines:
        append(folder, line)
    assert read(folder) == lines
    with (folder / "ratings.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["rater", "variant", "concept", "picture", "identity", "quality"]
    assert rows[2][0] == "'=cmd()", "a spreadsheet must not run a name"
    with (folder / "ratings.csv").open("a") as stream:
        stream.write("half a line\nx,ours,anna,a.png,9,1\nx,ours,anna,a.png,no,1\n")
    assert read(folder) == lines
    with pytest.raises(ValueError):
        append(folder, Rating("x", "ours", "anna", "a.png", 6, 1))


def test_means_with_intervals_by_hand() -> None:
    # 1 2 3 4 5: mean 3, variance 2.5, t for 4 degrees of freedom 2.776
    found = mean_of([1, 2, 3, 4, 5])
    assert (found.value, found.count) == (3, 5)
    assert found.half == pytest.approx(2.776 * (2.5 / 5) ** 0.5)
    assert mean_of([4]).half is None
    assert mean_of([2.0] * 40).half == 0
    table = summary([Rating("a", "low", "c", "1", 1, 5), Rating("a", "high", "c", "1", 5, 1)])
    assert list(table) == ["high", "low"]


def test_a_session_without_a_browser(folder: Path) -> None:
    page = RatingPage(folder)
    assert page.begin("  ")[0] == {}
    assert "Enter a name" in page.rate({}, "3", "3")[2]
    state, shown, place = page.begin(" ann ")
    assert place == "Picture 1 of 8"
    assert shown.count("data:image/png;base64,") == 2
    assert "<b>" not in shown
    assert not any(variant in shown for variant in VARIANTS)
    assert page.rate(state, "3", None)[2] == "Give both ratings, then go on."
    assert page.rate(state, "9", "1")[2] == "Give both ratings, then go on."
    for _ in range(8):
        state, _, place, one, two = page.rate(state, "4", "2")
        assert (one, two) == (None, None)
    assert place == "All pictures are rated. Thank you!"
    assert len(read(folder)) == 8
    assert page.rate(state, "4", "2")[2] == place
    assert len(read(folder)) == 8
    assert page.begin("ann")[2] == place
    assert page.begin("ben")[2] == "Picture 1 of 8"
    assert "4.00 ± 0.00" in page.results()


def test_a_file_of_version_0_1_0_goes_on(folder: Path) -> None:
    """Its column is called `way`: its ratings count, new lines fit under them, and nobody rates a picture twice."""
    file = folder / "ratings.csv"
    file.write_text("rater,way,concept,picture,identity,quality\nann,ours,anna,anna-1.png,5,4\n")
    append(folder, Rating("ann", "stacked", "ben", "ben-1.png", 1, 2))
    assert [(r.variant, r.identity) for r in read(folder)] == [("ours", 5), ("stacked", 1)]
    assert len(order_for("ann", trials_of(folder), read(folder))) == 6


def test_the_results_in_text_and_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append(folder, Rating("ann", "ours", "anna", "anna-1.png", 5, 4))
    append(folder, Rating("ben", "ours", "anna", "anna-1.png", 3, 4))
    append(folder, Rating("ann", "stacked", "ben", "ben-1.png", 1, 2))
    assert main(["rate", str(folder), "--results"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ours: identity 4.00 ± 12.71, quality 4.00 ± 0.00", "stacked: identity 1.00, quality 2.00",
    ]  # fmt: skip
    assert main(["rate", str(folder), "--results", "--json"]) == 0
    means = json.loads(capsys.readouterr().out)["variants"]
    assert means["stacked"]["identity"] == {"mean": 1.0, "half_interval": None, "ratings": 1}
