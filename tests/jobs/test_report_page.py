"""The report page: names of strangers stay text, nothing is loaded from anywhere, numbers are shown as they are."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lib_loraclr.charts import colour, dot_plot, heat_map
from lib_loraclr.html import TEMPLATES
from lib_loraclr.merging.report import render_html
from lib_loraclr.merging.report.data import KINDS, block_of, block_order, kind_of

EVIL = "<script>alert('x')</script>\"&"


class Outline(HTMLParser):
    """Tags, texts and attribute values; fails where an element is closed that is not open."""

    VOID = ("meta", "rect", "path", "circle", "polyline", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def report() -> dict[str, Any]:
    """A report in which every text that comes from outside is hostile."""
    concept = {"name": EVIL, "kept": 0.4321, "nearest_other": EVIL, "separation": None, "accuracy": 0.5, "drift": 0.1,
               "held_out": True}  # fmt: skip
    row = {"name": EVIL, "file": EVIL, "sha256": "a" * 64, "type": EVIL, "rank": EVIL, "layers": 3, "weight": 1.0,
           "te_weight": -0.5, "trigger": EVIL, "class_word": EVIL}  # fmt: skip
    variant = {
        "label": EVIL,
        "method": "sum",
        "options": {},
        "mean_kept": 0.4,
        "worst_kept": -3.0,
        "concepts": [concept],
    }
    return {
        "version": 1, "program": EVIL, "out": EVIL, "method": EVIL, "options": {}, "recipe": {"lora": [EVIL]},
        "checkpoint": EVIL, "inputs": [row], "concepts": [concept], "by_prediction": False,
        "kept_by_block": {"groups": [EVIL], "kept": [[None]]}, "kept_by_kind": {"groups": ["text"], "kept": [[-2.0]]},
        "overlap": {"names": [EVIL], "matrix": [[1.0]]}, "variants": [variant],
        "solver": {"loss": [2.0, 1.0], "active_hinges": 0.25, "active_hinges_at_start": 0.5}, "layers": 3,
        "ranks": {"min": 2, "max": 7, "sum": 9}, "seconds": {EVIL: 1.0, "total": 100.0}, "peak_memory_mib": 10.0,
        "warnings": [{"code": "x", "message": EVIL, "file": EVIL, "key": EVIL}],
    }  # fmt: skip


def test_texts_from_outside_stay_texts_and_nothing_is_loaded() -> None:
    page = render_html(report())
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert not outline.tags & {"script", "img", "link", "iframe", "image", "use", "a", "foreignobject"}
    assert not [name for name, _ in outline.attributes if name.startswith("on") or name in ("src", "href", "srcset")]
    assert not re.search(r"https?://|@import|url\(", page)
    assert EVIL in "".join(outline.text)
    assert "0.432" in page
    assert "prefers-color-scheme:dark" in page


def test_a_merge_without_measurements_says_so() -> None:
    data = {**report(), "concepts": [], "variants": [], "solver": {}, "ranks": {}, "checkpoint": None, "warnings": [],
            "kept_by_block": {"groups": [], "kept": []}, "kept_by_kind": {"groups": [], "kept": []}}  # fmt: skip
    page = render_html(data)
    assert "nothing was measured" in page
    assert "Contrastive solver" not in page


def test_colours_get_lighter_evenly_and_their_text_is_readable() -> None:
    def luminance(text: str) -> float:
        parts = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    shades = [colour(k / 20) for k in range(21)]
    levels = [luminance(fill) for fill, _ in shades]
    assert levels == sorted(levels)
    for fill, ink in shades:
        high, low = sorted((luminance(fill), luminance(ink)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.0, fill
    assert colour(-3) == colour(0)
    assert colour(7) == colour(1)


def test_charts_write_the_numbers() -> None:
    assert ">0.25</text>" in heat_map("t", ["a"], ["b"], [[0.25]], low=0, high=1)
    assert "&ndash;" in heat_map("t", ["a"], ["b"], [[None]], low=0, high=1)
    assert "a, m: -7.000" in dot_plot("t", ["a"], [("m", [-7.0])])


def test_six_ways_have_six_marks() -> None:
    plot = dot_plot("t", ["a"], [(f"way {k}", [0.1 * k]) for k in range(6)])
    legend = re.findall(r'class="mark (m\d)" transform="[^"]*">(<[^/]*/>)<', plot)
    assert len(set(legend)) == 6
    page = (Path(__file__).resolve().parents[2] / "style.css").read_text().replace(" ", "")
    report_style = (TEMPLATES / "report.css").read_text().replace(" ", "")
    assert all(f".m{number}{{fill:var(--m{number})" in text for number in range(6) for text in (report_style, page))


@pytest.mark.parametrize(
    ("layer", "block", "kind"),
    [
        ("text_encoder.text_model.encoder.layers.0.mlp.fc1", "text", "text"),
        ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1", "text 2", "text"),
        ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "down 1", "self q k"),
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v", "mid", "cross k v"),
        ("unet.up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_out.0", "up 3", "cross q out"),
        ("unet.up_blocks.0.resnets.0.conv1", "up 0", "convolution"),
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj", "down 0", "feed forward"),
        ("unet.time_embedding.linear_1", "other", "other"),
    ],
)
def test_layer_groups(layer: str, block: str, kind: str) -> None:
    assert (block_of(layer), kind_of(layer)) == (block, kind)
    assert kind in KINDS
    assert isinstance(block_order(block), tuple)
