"""The studies' charts: what is drawn, and where the labels of the lines stand."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks.charts import COLOURS, Chart, Series, pushed_apart, save

CHART = Chart(
    "Identity by N", "LoRAs merged", "mean cosine",
    [Series("ours", [(1, 0.6), (2, 0.58), (12, 0.5)], [0.0, 0.01, 0.02], strong=True),
     Series("sum & stack", [(1, 0.6), (2, 0.2), (12, -0.1)])],
    [(1, "1"), (2, "2"), (12, "12")], ("single", 0.6),
)  # fmt: skip


def ink(image: Image.Image, colour: str) -> tuple[int, int, int, int]:
    """The smallest box (left, top, right, bottom) around all pixels of a colour."""
    wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    mask = Image.new("1", image.size)
    mask.putdata([max(abs(a - b) for a, b in zip(pixel, wanted, strict=True)) < 12 for pixel in image.getdata()])
    box = mask.getbbox()
    assert box is not None, f"nothing is {colour}"
    return box


def test_a_chart_is_drawn_on_white(tmp_path: Path) -> None:
    """The second line ends far below the first, whose label stands beside its end; both begin at the same height."""
    pytest.importorskip("matplotlib")
    save(CHART, tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as image:
        assert image.size == (1720, 920)
        pixels = image.convert("RGB")
        assert pixels.getpixel((0, 0)) == (255, 255, 255)
        first, second = (ink(pixels, colour) for colour in COLOURS[:2])
    assert abs(first[1] - second[1]) < 20
    assert second[3] - second[1] > 3 * (first[3] - first[1])
    assert min(first[2], second[2]) > 0.72 * 1720, "labels stand right of the axes"


def test_a_chart_of_one_value_and_of_none(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    save(Chart("t", "x", "y", [Series("a", [(1, 0.5)])], [(1, "1")]), tmp_path / "one.png")
    save(Chart("t", "x", "y", [], []), tmp_path / "none.png")
    assert (tmp_path / "one.png").is_file()
    assert (tmp_path / "none.png").is_file()


def test_labels_do_not_overlap() -> None:
    places = pushed_apart([0.5, 0.5, 0.5, 0.9], 0.1)
    assert places == pytest.approx([0.4, 0.5, 0.6, 0.9], abs=0.01)
    assert pushed_apart([0.1, 0.9], 0.1) == [0.1, 0.9]
