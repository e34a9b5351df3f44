"""Regions drawn in a real browser by pointer, touch and keyboard: what the text holds, and the picture again (J1).

Runs in whichever gradio is installed; 3.41.2 and 4.40.0 are the two that the WebUIs bring.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from panel_driver import DOC, TWO, Panel, near

pytestmark = pytest.mark.browser
pytest.importorskip("gradio", reason="gradio is not installed; tools/do.py browser brings it")


def test_what_is_drawn_is_in_the_text_and_the_text_draws_the_same(panel: Panel) -> None:
    panel.drag((0.125, 0.25), (0.375, 0.875))
    panel.tool("polygon")
    for point in ((0.5, 0.1), (0.9, 0.1), (0.75, 0.5)):
        panel.click(*point)
    panel.page.keyboard.press("Enter")
    panel.tool("brush")
    panel.page.evaluate(f"{DOC}.select(null)")
    panel.drag((0.55, 0.7), (0.85, 0.7), (0.85, 0.9))
    panel.page.locator(".loraclr-card textarea").first.fill("a woman")
    spec = panel.given()
    box, polygon, mask = (region["shape"] for region in spec["regions"])
    assert near(box["r"], [0.125, 0.25, 0.375, 0.875])
    assert [near(p, q) for p, q in zip(polygon["p"], ([0.5, 0.1], [0.9, 0.1], [0.75, 0.5]), strict=True)] == [True] * 3
    assert mask["t"] == "png"
    assert spec["regions"][0]["prompt"] == "a woman"

    from lib_loraclr.regional import parse_spec

    painted = parse_spec(spec).regions[2].shape
    # an L of a round brush of 6 %: 0.3 + 0.2 long, 0.06 wide, half a circle at each end
    assert abs(painted.area - (0.5 * 0.06 + 3.14 * 0.03**2)) < 0.004
    before = panel.pixels()
    panel.open()
    panel.load(spec)
    assert panel.pixels() == before
    assert panel.spec() == spec


def test_move_resize_and_undo(panel: Panel) -> None:
    panel.load({"regions": [TWO["regions"][0]]})
    panel.tool("select")
    panel.drag((0.25, 0.5), (0.3, 0.47), held="Control")
    assert near(panel.spec()["regions"][0]["shape"]["r"], [0.15, 0.17, 0.5, 0.87])
    panel.drag((0.5, 0.87), (0.7, 0.6), held="Control")
    assert near(panel.spec()["regions"][0]["shape"]["r"], [0.15, 0.17, 0.7, 0.6])
    panel.page.keyboard.press("Control+z")
    panel.page.keyboard.press("Control+z")
    assert panel.spec()["regions"][0]["shape"]["r"] == TWO["regions"][0]["shape"]["r"]
    panel.page.keyboard.press("Control+Shift+z")
    assert near(panel.spec()["regions"][0]["shape"]["r"], [0.15, 0.17, 0.5, 0.87])


def test_snapping_meets_thirds_and_neighbours_exactly(panel: Panel) -> None:
    panel.drag((0.003, 0.004), (0.3345, 0.998))
    assert near(panel.spec()["regions"][0]["shape"]["r"], [0, 0, 0.3333, 1], 1e-9)
    panel.tool("box")
    panel.drag((0.336, 0.3), (0.8, 0.6))
    assert panel.spec()["regions"][1]["shape"]["r"][0] == 0.3333


def test_eraser_turns_a_box_into_what_is_left_of_it(panel: Panel) -> None:
    panel.load({"regions": [{"id": "r1", "shape": {"t": "box", "r": [0.2, 0.2, 0.8, 0.8]}, "prompt": "x"}]})
    panel.page.evaluate(f"{DOC}.select('r1')")
    panel.tool("eraser")
    panel.page.locator(".loraclr-brush input[type=text]").fill("20")
    panel.page.keyboard.press("Tab")
    panel.drag((0.1, 0.5), (0.9, 0.5))

    from lib_loraclr.regional import parse_spec

    left = parse_spec(panel.spec()).regions[0].shape
    assert abs(left.area - (0.36 - 0.6 * 0.2)) < 0.004


def test_a_stroke_beside_a_selected_polygon_is_a_region_of_its_own(panel: Panel) -> None:
    """Painting goes on in a painted region only; undo takes the stroke back."""
    panel.load(TWO)
    panel.page.evaluate(f"{DOC}.select('r2')")
    panel.tool("brush")
    panel.drag((0.2, 0.8), (0.4, 0.8))
    shapes = [region["shape"] for region in panel.spec()["regions"]]
    assert [shape["t"] for shape in shapes] == ["box", "poly", "png"]
    assert shapes[1] == TWO["regions"][1]["shape"]
    panel.drag((0.2, 0.9), (0.4, 0.9))
    assert [region["shape"]["t"] for region in panel.spec()["regions"]] == ["box", "poly", "png"]
    panel.page.keyboard.press("Control+z")
    assert [region["shape"] for region in panel.spec()["regions"]] == shapes
    panel.page.keyboard.press("Control+z")
    assert panel.spec() == TWO


def test_a_mask_of_the_first_version_comes_back_as_a_picture(panel: Panel) -> None:
    """Pasted parameters of 0.1.0 hold deflated cells; the server gives the panel a PNG of them."""
    import base64
    import zlib

    from lib_loraclr.regional import parse_spec

    cells = bytes(255 if 8 <= x < 24 and 16 <= y < 32 else 0 for y in range(64) for x in range(64))
    shape = {"t": "mask", "w": 64, "h": 64, "bits": 8, "z": base64.b64encode(zlib.compress(cells)).decode()}
    old = {"v": 1, "regions": [{"id": "r1", "shape": shape, "prompt": "x"}]}
    panel.page.locator("#pasted textarea").fill(json.dumps(old))
    panel.page.locator("#paste").click()
    panel.page.locator(".loraclr-card .loraclr-place", has_text="at 13 %, 25 %").wait_for()
    assert panel.spec()["regions"][0]["shape"]["t"] == "png"
    assert parse_spec(panel.spec()) == parse_spec(old)


def test_lasso_draws_a_polygon_and_takes_away_with_alt(panel: Panel) -> None:
    panel.tool("lasso")
    panel.drag((0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8), (0.2, 0.21))
    shape = panel.spec()["regions"][0]["shape"]
    assert shape["t"] == "poly"
    assert len(shape["p"]) <= 8
    panel.tool("lasso")
    panel.drag((0.1, 0.5), (0.9, 0.5), (0.9, 0.9), (0.1, 0.9), (0.1, 0.5), held="Alt")

    from lib_loraclr.regional import parse_spec

    half = parse_spec(panel.spec()).regions[0].shape
    assert abs(half.area - 0.18) < 0.01


def test_grid_keeps_the_prompts(panel: Panel) -> None:
    panel.load(TWO)
    panel.page.get_by_label("Divide the picture", exact=True).first.click()
    panel.page.get_by_label("Ratios").fill("1,2,1;2,4,6")
    panel.page.get_by_role("button", name="Use", exact=True).click()
    regions = panel.spec()["regions"]
    assert [region["shape"]["r"] for region in regions] == [
        [0, 0, 0.6667, 0.3333], [0.6667, 0, 1, 0.3333], [0, 0.3333, 0.4, 1], [0.4, 0.3333, 1, 1],
    ]  # fmt: skip
    assert [region["prompt"] for region in regions] == ["a woman", "a man", "", ""]


def test_everything_by_keyboard(panel: Panel) -> None:
    keys = panel.page.keyboard
    panel.page.locator(".loraclr-canvas").focus()
    keys.press("Enter")
    assert panel.spec()["regions"][0]["shape"]["r"] == [0.25, 0.25, 0.75, 0.75]
    keys.press("ArrowRight")
    keys.press("ArrowRight")
    keys.press("Shift+ArrowUp")
    keys.press("Alt+ArrowDown")
    assert panel.spec()["regions"][0]["shape"]["r"] == [0.27, 0.248, 0.77, 0.758]
    keys.press("Control+d")
    assert len(panel.spec()["regions"]) == 2
    assert [region.get("order", 0) for region in panel.spec()["regions"]] == [0, 1]
    keys.press("[")
    assert [region.get("order", 0) for region in panel.spec()["regions"]] == [1, 0]
    keys.press("PageDown")
    keys.press("Enter")
    keys.type("a dog")
    assert panel.spec()["regions"][0]["prompt"] == "a dog"
    keys.press("Escape")
    panel.page.locator(".loraclr-canvas").focus()
    keys.press("Delete")
    assert [region["prompt"] for region in panel.spec()["regions"]] == [""]
    assert panel.page.locator(".loraclr-number").first.get_attribute("aria-label").startswith("Region 1")


def test_touch_draws_and_two_fingers_zoom(browser: Any, regional_address: str) -> None:
    context = browser.new_context(viewport={"width": 500, "height": 1000}, has_touch=True)
    panel = Panel(context.new_page(), regional_address).open()
    panel.page.locator(".loraclr-canvas").scroll_into_view_if_needed()
    session = context.new_cdp_session(panel.page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        marks = [{"x": x, "y": y, "id": k} for k, (x, y) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": marks})

    touch("touchStart", panel.at(0.2, 0.2))
    touch("touchMove", panel.at(0.5, 0.5))
    touch("touchMove", panel.at(0.7, 0.8))
    touch("touchEnd")
    assert near(panel.spec()["regions"][0]["shape"]["r"], [0.2, 0.2, 0.7, 0.8], 0.04)
    a, b, c, d = panel.at(0.4, 0.5), panel.at(0.6, 0.5), panel.at(0.2, 0.5), panel.at(0.8, 0.5)
    touch("touchStart", a, b)
    touch("touchMove", c, d)
    touch("touchEnd")
    assert abs(panel.page.evaluate("loraclrRegional.panels.get('txt2img').view.zoom") - 3) < 0.3
    assert len(panel.spec()["regions"]) == 1
    context.close()
    assert not panel.errors
