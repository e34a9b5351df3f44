from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "benchmarks" / "tables.py"


@pytest.fixture
def tables():
    spec = importlib.util.spec_from_file_location("benchmark_tables", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result() -> dict:
    times = {"adamw-50": 3.0, "lbfgs-50": 5.0, "gradient-fusion": 0.01, "contrastive": 0.1}
    rows = [
        {"statistics": "sd15", "n": 2, "layers": layer, "method": method, "seconds": seconds, "residual": residual,
         "peak_memory_mib": peak}
        for method, seconds in times.items() for layer, residual, peak in (("a", 0.1, 50), ("b", 0.3, 90))
    ]  # fmt: skip
    return {"settings": {}, "rows": rows}


def test_one_line_sums_the_layer_families(tables):
    line = tables.merge_speed(result()).splitlines()[-1]
    # 2 x 3.0 s, mean residual 0.2, peak 90; the faster loop (6 s) over ours (0.02 s)
    assert line.startswith("| sd15 | 2 | 6 / 0.2000 / 90 | 10 / 0.2000 / 90 | 0.02 / 0.2000 / 90 |")
    assert line.endswith("| 300 x |")


def test_write_then_check(tables, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- table:merge_speed -->\nold\n<!-- /table:merge_speed -->\nafter\n")
    (tmp_path / "merge_speed.json").write_text(json.dumps(result()))
    arguments = ["--readme", str(readme), "--results", str(tmp_path)]
    assert tables.main([*arguments, "--check"]) == 1
    assert "old" in readme.read_text()
    assert tables.main(arguments) == 0
    text = readme.read_text()
    assert text.startswith("before\n<!-- table:merge_speed -->\n| layers of |")
    assert text.endswith("<!-- /table:merge_speed -->\nafter\n")
    assert tables.main([*arguments, "--check"]) == 0
    assert tables.main(arguments) == 0
    assert readme.read_text() == text


def test_a_table_without_results_stays(tables, tmp_path):
    text = (
        "<!-- table:merge_speed -->\nkept\n<!-- /table:merge_speed -->\n<!-- table:other -->\n<!-- /table:other -->\n"
    )
    assert tables.render(text, tmp_path) == text


def row(method: str, n: int, identity: float, draw: int = 0, **options: object) -> dict:
    return {"method": method, "options": options, "n": n, "draw": draw, "text": 0.9, "image": None,
            "identity_cosine": identity, "identity_rate": 1.0, "worst_identity_cosine": identity - 0.1,
            "drift": 0.25}  # fmt: skip


ROWS = [
    row("single", 2, 0.6), row("single", 12, 0.7), row("contrastive", 2, 0.5), row("contrastive", 2, 0.54, draw=1),
    row("contrastive", 12, 0.4), row("loraclr", 2, 0.1, precision="fp16"),
    row("contrastive", 12, 0.2, prior_preservation=0.0),
]  # fmt: skip


def test_identity_by_method_and_number(tables):
    lines = tables.fidelity(ROWS).splitlines()
    assert lines[0] == "| method | N = 2 | N = 12 |"
    assert lines[2] == "| single LoRAs | 0.600 | 0.700 |"
    # mean of .5 and .54, standard deviation .04 / sqrt 2 = .0283
    assert lines[3] == "| contrastive | 0.520 ± 0.028 | 0.400 |"
    assert lines[4] == "| LoRACLR, as its program runs | 0.100 | - |"
    assert len(lines) == 5, "variants have a table of their own"


def test_every_measure_at_the_largest_number(tables):
    lines = tables.fidelity_columns(ROWS).splitlines()
    assert lines[0] == "| method, N = 12 | text | image | identity | recognised | worst identity | drift |"
    assert lines[2:] == [
        "| single LoRAs | 0.900 | - | 0.700 | 1.000 | 0.600 | 0.250 |",
        "| contrastive | 0.900 | - | 0.400 | 1.000 | 0.300 | 0.250 |",
    ]
    assert (
        tables.fidelity_variants(ROWS)
        .splitlines()[2]
        .startswith("| contrastive (prior_preservation 0.0) | 0.900 | - | 0.200 |")
    )


def test_ablation_and_combinations(tables):
    rows = [
        {"parameter": "single", "value": None, **ROWS[0]}, {"parameter": "margin", "value": 1.2, **ROWS[2]},
        {"parameter": "margin", "value": 1.2, **ROWS[3]}, {"parameter": "rank", "value": "exact", **ROWS[4]},
    ]  # fmt: skip
    lines = tables.ablation(rows).splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| single", "| margin = 1.2", "| rank = exact"]
    assert "0.520 ± 0.028" in lines[1]
    mixed = [{"combination": "objects", **ROWS[0]}, {"combination": "objects", **ROWS[2]}]
    assert [line.split(" | ")[0] for line in tables.combinations(mixed).splitlines()[2:]] == [
        "| objects: single LoRAs", "| objects: contrastive",
    ]  # fmt: skip


def test_parts_stand_beside_each_other_by_way(tables):
    solved, learned = row("gradient-fusion", 8, 0.5), row("gradient-fusion", 8, 0.7, preset="distilled")
    rows = [{**solved, "part": "keys"}, {**solved, "part": "all", "identity_cosine": 0.4}, {**learned, "part": "keys"}]
    rows += [{**learned, "part": "all", "identity_cosine": 0.65}]
    plain, way = "gradient fusion", "gradient fusion, distilled (default)"
    head = f"| from the merge | {plain}: identity | {plain}: worst identity | {way}: identity | {way}: worst identity |"
    keys = "| keys | 0.500 | 0.400 | 0.700 | 0.600 |"
    assert tables.parts(rows).splitlines() == [head, "|---" * 5 + "|", keys, "| all | 0.400 | 0.400 | 0.650 | 0.600 |"]
    assert tables.parts(rows[:3]).splitlines()[2:] == [keys, "| all | 0.400 | 0.400 | - | - |"], "not measured yet"


@pytest.mark.parametrize("key", ["embedder_calibration", "stick"])  # the second is what version 0.1.0 wrote
def test_the_embedder_s_calibration(tables, tmp_path, key):
    (tmp_path / "fidelity_details.json").write_text(json.dumps({key: {"identity": {"equal_error": 0.0123}}}))
    text = "<!-- table:embedder_calibration -->\n<!-- /table:embedder_calibration -->\n"
    assert "| identity: equal error | 0.0123 |" in tables.render(text, tmp_path)


def test_readme_and_docs_are_what_the_results_say(tables):
    """The committed pages against the committed results."""
    assert tables.main(["--check"]) == 0
    pages = "".join(page.read_text(encoding="utf-8") for page in tables.PAGES)
    assert set(tables.TABLES) <= {match[1] for match in tables.MARKED.findall(pages)}, "every table has its place"


def test_what_a_merge_costs(tables):
    parts = {"watch": 1000, "evaluate": 200, "draw": 30, "learn": 4, "total": 1234}
    rows = [{"preset": "text", "n": n, **dict.fromkeys(parts, 0)} for n in (2, 4)]
    rows += [{"preset": "all", "n": 2, **parts}, {"preset": "all", "n": 4, **parts, "watch": 2000, "total": 2234}]
    measured = [{"run": "first merge", "n": 8, "seconds": 395.6, "mib": 691.8}]
    lines = tables.cost({"calls": rows, "measured": measured}).splitlines()
    assert lines[0] == "| preset: calls of the model | 2 LoRAs | 4 LoRAs |"
    assert lines[2:4] == ["| text | 0 | 0 |", "| all | 1,234 | 2,234 |"]
    assert lines[-1] == "| first merge | 8 | 396 s | 692 MiB |"


def test_the_committed_cost_is_that_of_the_cost_model():
    spec = importlib.util.spec_from_file_location("benchmark_cost", SOURCE.with_name("cost.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.result() == json.loads((SOURCE.parent / "results" / "cost.json").read_text(encoding="utf-8"))
