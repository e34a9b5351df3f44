"""Weights: a partition of unity at every size, areas kept exactly, hand-computed edges, and Mix-of-Show's own boxes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from regional_toys import layout_of

from lib_loraclr.regional import Box, Mask, Polygon, parse_spec, spec_as_json
from lib_loraclr.regional.raster import area_matrix, blur_matrix, coverage, hard_box
from lib_loraclr.regional.weights import RegionWeights, base_weight

THIRDS = [[0, 0, 1 / 3, 1], [1 / 3, 0, 2 / 3, 1], [2 / 3, 0, 1, 1]]
share = st.floats(0, 1, allow_nan=False)
sides = st.sampled_from([(64, 64), (75, 113), (65, 97), (125, 128), (37, 29), (24, 40)])


def near(values: torch.Tensor, expected: list[Any]) -> bool:
    return torch.allclose(values, torch.tensor(expected, dtype=torch.float64), atol=1e-12)


def test_area_matrix_by_hand() -> None:
    assert near(area_matrix(2, 3), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]])
    assert near(area_matrix(3, 2), [[1, 0], [0.5, 0.5], [0, 1]])


def test_blur_matrix_by_hand() -> None:
    """A step between cells 1 and 2 of four becomes a ramp two cells wide; constants stay."""
    ramp = blur_matrix(4, 2.0) @ torch.tensor([1.0, 1, 0, 0], dtype=torch.float64)
    assert near(ramp, [1, 0.75, 0.25, 0])
    assert near(blur_matrix(5, 3.3).sum(1), [1.0] * 5)
    assert near(blur_matrix(3, 50.0) @ torch.ones(3, dtype=torch.float64), [1, 1, 1])


def test_a_box_covers_cells_by_area() -> None:
    drawn = coverage(Box(0.25, 0.0, 0.625, 0.5), 2, 4)
    assert near(drawn, [[0, 1, 0.5, 0], [0, 0, 0, 0]])
    assert coverage(Box(0, 0, 1, 1), 37, 29, feather=0.2).eq(1).all()


def test_a_soft_edge_is_a_ramp_of_its_width() -> None:
    """Width 0.5 of the shorter side of 8 cells: 4 cells, centred on the edge at 4."""
    drawn = coverage(Box(0, 0, 0.5, 1), 8, 16, feather=0.5)
    expected = [1, 1, 1, 1, 1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0, 0, 0, 0, 0]
    assert all(near(row, expected) for row in drawn)


def test_a_polygon_covers_its_area() -> None:
    triangle = coverage(Polygon(((0, 0), (1, 0), (0, 1))), 4, 4)
    assert near(triangle.diagonal(), [1, 1, 0, 0])
    assert near(triangle.flip(1).diagonal(), [0.5] * 4)  # the hypotenuse halves its cells
    assert triangle[0, 0] == 1
    assert triangle[3, 3] == 0
    eight = Polygon(((0, 0), (1, 1), (1, 0), (0, 1)))  # two triangles that meet in the middle
    assert coverage(eight, 64, 64).mean() == pytest.approx(0.5, abs=2e-3)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(share, share), min_size=3, max_size=3))
def test_triangles_of_any_kind_cover_their_area(points: list[tuple[float, float]]) -> None:
    triangle = Polygon(tuple(points))
    assert float(coverage(triangle, 128, 128).mean()) == pytest.approx(triangle.area, abs=2e-3)


def test_a_mask_of_any_size_covers_its_area() -> None:
    mask = Mask(3, 2, bytes([255, 0, 0, 0, 0, 51]))
    assert float(coverage(mask, 17, 23).mean()) == pytest.approx((1 + 0.2) / 6, abs=1e-9)
    assert near(coverage(mask, 2, 3), [[1, 0, 0], [0, 0, 0.2]])


def boxes_strategy() -> st.SearchStrategy[list[dict[str, Any]]]:
    def region(corners: tuple[float, float, float, float], rho: float, weight: float, z: int, soft: bool) -> Any:
        left, top, width, height = corners
        box = [left * 0.9, top * 0.9, left * 0.9 + 0.05 + width * 0.1 + 0.0, min(1.0, top * 0.9 + 0.05 + height * 0.5)]
        return {
            "shape": {"t": "box", "r": box},
            "strength": rho,
            "weight": weight,
            "order": z,
            "feather": 0.1 if soft else 0,
        }

    one = st.builds(region, st.tuples(share, share, share, share), share, st.floats(0, 3), st.integers(0, 3),
                    st.booleans())  # fmt: skip
    return st.lists(one, min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(boxes_strategy(), sides, st.sampled_from(["average", "weighted", "top"]), share,
       st.sampled_from(["coverage", "grow", "mix-of-show"]))  # fmt: skip
def test_weights_are_a_partition_of_unity(
    regions: list[Any], size: tuple[int, int], overlap: str, floor: float, raster: str
) -> None:
    spec = parse_spec({"regions": regions, "overlap": overlap, "raster": raster, "base": {"in_regions": floor}})
    layout = RegionWeights(spec, *size)
    for depth in (1, 2, 4, 8):
        height, width = -(-size[0] // depth), -(-size[1] // depth)
        weights = layout.at(height, width, 0.0)
        base = base_weight(weights)
        assert float(weights.min()) >= 0
        assert float(base.min()) >= 0
        assert float((base + weights.sum(0) - 1).abs().max()) < 1e-6
        assert float(weights.sum(0).max()) <= 1 - floor + 1e-6


@settings(max_examples=20, deadline=None)
@given(boxes_strategy(), sides, st.sampled_from(["average", "weighted", "top"]))
def test_every_layer_gives_a_region_the_same_area(regions: list[Any], size: tuple[int, int], overlap: str) -> None:
    layout = RegionWeights(parse_spec({"regions": regions, "overlap": overlap}), *size)
    areas = [layout.unscaled(*cells).mean((1, 2)) for cells in (size, (8, 8), (5, 9), (1, 1))]
    assert all(torch.allclose(area, areas[0], atol=1e-6) for area in areas)


def test_neighbours_leave_no_seam_and_small_boxes_do_not_vanish() -> None:
    for feather in (0, 0.02, 0.2):
        layout = layout_of(THIRDS, 64, 64, feather=feather)
        for side in (64, 32, 16, 8, 11):
            assert base_weight(layout.at(side, side, 0)).eq(0).all()
    small = layout_of([[0.4, 0.4, 0.51, 1.0]], 64, 64)
    assert all(float(small.at(side, side, 0).max()) > 0.4 for side in (64, 32, 16, 8))


def test_mix_of_show_boxes_have_the_published_seams() -> None:
    """ceil(start * n) to floor(end * n): two uncovered columns between thirds, a box of 11 % vanishes at 16 and 8."""
    layout = layout_of(THIRDS, 64, 64, raster="mix-of-show")
    for side in (64, 32, 16, 8):
        empty = base_weight(layout.at(side, side, 0))[0].sum()
        covered = sum(math.floor(side * (k + 1) / 3) - math.ceil(side * k / 3) for k in range(3))
        assert empty == side - covered == 2
    assert hard_box(Box(0.41, 0, 0.52, 1), 16, 16).sum() == 16
    assert hard_box(Box(0.44, 0, 0.55, 1), 16, 16).sum() == 0
    assert hard_box(Box(0.44, 0, 0.55, 1), 8, 8).sum() == 0


def test_overlap_rules_by_hand() -> None:
    left, right = [0, 0, 0.75, 1], [0.25, 0, 1, 1]
    each = [{"weight": 1, "order": 5}, {"weight": 3}]

    def row(overlap: str, boxes: Any = (left, right), each: Any = each) -> list[float]:
        return layout_of(list(boxes), 4, 4, overlap=overlap, each=each).at(4, 4, 0)[0, 0].tolist()

    assert row("average") == pytest.approx([1, 0.5, 0.5, 0])
    assert row("weighted") == pytest.approx([1, 0.25, 0.25, 0])
    assert row("top") == [1, 1, 1, 0]
    assert row("top", each=[{}, {}]) == [1, 0, 0, 0]  # the later one is on top
    assert row("weighted", each=[{"weight": 0}, {"weight": 0}]) == [0, 0, 0, 0]


def test_strength_floor_and_windows_by_hand() -> None:
    layout = layout_of(
        [[0, 0, 0.5, 1], [0.5, 0, 1, 1]], base={"in_regions": 0.2}, steps=[0.1, 1],
        each=[{"strength": 0.5, "steps": [0, 0.5]}, {"steps": [0.5, 1]}],
    )  # fmt: skip
    assert layout.gates(0.0) == (0, 0)
    assert layout.gates(0.1) == pytest.approx((0.4, 0))
    assert layout.gates(0.5) == pytest.approx((0, 0.8))
    assert layout.gates(0.95) == pytest.approx((0, 0.8))
    assert base_weight(layout.at(8, 8, 0.1))[0].tolist() == pytest.approx([0.6] * 4 + [1] * 4)
    hires = RegionWeights(parse_spec({**_plain(layout), "hires": {"strength": 0.5}}), 8, 8, hires=True)
    assert hires.gates(0.5) == pytest.approx((0, 0.4))
    assert RegionWeights(parse_spec({**_plain(layout), "hires": {"on": False}}), 8, 8, hires=True).regions == ()


def _plain(layout: RegionWeights) -> dict[str, Any]:
    return spec_as_json(layout.spec)


def test_the_order_of_regions_does_not_matter_and_z_only_in_the_overlap() -> None:
    a, b = [0, 0, 0.75, 1], [0.25, 0, 1, 1]
    one, two = layout_of([a, b], overlap="average"), layout_of([b, a], overlap="average")
    assert torch.equal(one.at(16, 16, 0), two.at(16, 16, 0).flip(0))
    above = layout_of([a, b], overlap="top", each=[{"order": 1}, {}]).at(16, 16, 0)
    below = layout_of([a, b], overlap="top", each=[{}, {"order": 1}]).at(16, 16, 0)
    changed = (above != below).any(0).any(0)
    assert changed.nonzero().flatten().tolist() == list(range(4, 12))


def test_grown_regions_fill_a_cell() -> None:
    regions = [
        {"shape": {"t": "box", "r": [0.5, 0.5, 0.53, 0.53]}},
        {"shape": {"t": "box", "r": [0, 0, 1, 1]}, "order": -1},
    ]
    for raster, least, most in (("coverage", 0.01, 0.1), ("grow", 0.49, 1.0)):
        layout = RegionWeights(
            parse_spec({"regions": regions, "raster": raster, "feather": 0, "overlap": "top"}), 64, 64
        )
        assert least < float(layout.at(8, 8, 0)[0].max()) <= most


def test_guidance_is_a_map_of_scales() -> None:
    halves = [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]
    assert layout_of(halves).guidance(4, 4, 0, 7.0) is None
    layout = layout_of(halves, each=[{"cfg": 3, "strength": 0.5}, {"steps": [0.5, 1], "cfg": 9}])
    early, late = (layout.guidance(4, 4, progress, 7.0) for progress in (0, 0.5))
    assert early is not None
    assert late is not None
    assert early.shape == (1, 1, 4, 4)
    assert early[0, 0, 0].tolist() == pytest.approx([5, 5, 7, 7])
    assert late[0, 0, 0].tolist() == pytest.approx([5, 5, 9, 9])
