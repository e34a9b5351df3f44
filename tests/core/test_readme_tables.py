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
