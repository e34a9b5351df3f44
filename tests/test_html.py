"""Templates: what is escaped, what is an error, and that a merge without a report needs none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from jinja2 import TemplateNotFound, UndefinedError

from lib_loraclr.html import TEMPLATES, environment, fragment, render

EVIL = "<script>alert('x')</script>\"&"


def test_texts_are_escaped_and_markup_is_not_escaped_twice() -> None:
    inner = fragment("parts.html", "table", [EVIL], [[EVIL], [0.5], [None]])
    page = render("evaluation.html", title=EVIL, about="", sections=[{"title": "t", "text": EVIL, "content": inner}])
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 5
    assert "<td>0.500</td>" in page
    assert "<td>&ndash;</td>" in page


def test_columns_of_numbers_stand_right() -> None:
    table = fragment("parts.html", "table", ["name", "n"], [["a", 1], ["b", None]], [False, True])
    assert '<th class="n">n</th>' in table
    assert "<th>name</th>" in table
    assert table.count('<tr class="low">') == 1


def test_a_missing_variable_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render("evaluation.html", title="t", sections=[])


@pytest.mark.parametrize("name", ["../html.py", "/etc/passwd", "nothing.html"])
def test_only_the_packages_own_templates(name: str) -> None:
    with pytest.raises(TemplateNotFound):
        render(name)


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.html")), ids=lambda path: path.name)
def test_no_template_runs_scripts_or_trusts_a_text(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert environment().get_template(path.name)
    for forbidden in ("|safe", "| safe", "autoescape", "<script", "javascript:", " onclick", "http://", "https://"):
        assert forbidden not in text, forbidden


def test_a_merge_without_a_report_loads_no_templates() -> None:
    code = "import sys, lib_loraclr.merging.pipeline; print('jinja2' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=TEMPLATES.parents[1]
    )
    assert done.stdout.strip() == "False"
