"""The regional panel in a real browser: draw, read the hidden text, reload it, see the same picture (J1).

Runs in whichever gradio is installed; 3.41.2 and 4.40.0 are the two that the WebUIs bring.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from lib_loraclr.regional.spec import SUBJECTS_SOLO

pytestmark = pytest.mark.browser
pytest.importorskip("gradio", reason="gradio is not installed; tools/do.py browser brings it")

DOC = "loraclrRegional.panels.get('txt2img').document"
TWO = {
    "v": 1,
    "regions": [
        {"id": "r1", "name": "anna", "shape": {"t": "box", "r": [0.1, 0.2, 0.45, 0.9]}, "prompt": "a woman"},
        {"id": "r2", "shape": {"t": "poly", "p": [[0.55, 0.2], [0.9, 0.3], [0.7, 0.9]]}, "prompt": "a man", "z": 1},
    ],
}


class Panel:
    """The page as a user sees it: positions are fractions of the picture, not of the element."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.address = page, address
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.set_default_timeout(60_000)
        page.route("**/*", lambda route: route.continue_() if "127.0.0.1" in route.request.url else route.abort())

    def open(self) -> Panel:
        self.page.goto(self.address)
        self.page.locator(".loraclr-canvas").wait_for()
        self.page.wait_for_function(f"{DOC} && loraclrRegional.panels.get('txt2img').view.width > 10")
        return self

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Page coordinates of a point of the picture."""
        box = self.page.locator(".loraclr-canvas").bounding_box()
        px, py = self.page.evaluate(f"loraclrRegional.panels.get('txt2img').view.toScreen({x}, {y})")
        return box["x"] + px, box["y"] + py

    def tool(self, name: str) -> None:
        self.page.locator(f"[data-tool={name}]").click()

    def drag(self, *points: tuple[float, float], held: str | None = None) -> None:
        self.page.locator(".loraclr-canvas").scroll_into_view_if_needed()
        if held:
            self.page.keyboard.down(held)
        self.page.mouse.move(*self.at(*points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.at(*point), steps=4)
        self.page.mouse.up()
        if held:
            self.page.keyboard.up(held)

    def click(self, x: float, y: float) -> None:
        self.page.mouse.click(*self.at(x, y))
        self.page.wait_for_timeout(400)  # or two clicks are a double click

    def spec(self) -> dict[str, Any]:
        """What the hidden text holds."""
        return json.loads(self.page.locator("#regional_spec textarea").input_value() or "{}")

    def load(self, spec: dict[str, Any]) -> None:
        self.page.evaluate("text => loraclrRegional.panels.get('txt2img').load(text)", json.dumps(spec))

    def given(self) -> dict[str, Any]:
        """What a generation would be given by gradio."""
        self.page.locator("#given textarea").evaluate("element => element.value = ''")
        self.page.locator("#generate").click()
        self.page.wait_for_function("document.querySelector('#given textarea').value !== ''")
        enabled, text = json.loads(self.page.locator("#given textarea").input_value())
        assert enabled is True
        return json.loads(text)

    def pixels(self) -> str:
        """The canvas as a PNG, without what only the pointer shows."""
        panel = "loraclrRegional.panels.get('txt2img')"
        self.page.evaluate(f"() => {{ {panel}.view.overlay = {{}}; {DOC}.select(null); {panel}.view.draw(); }}")
        return self.page.evaluate(f"{panel}.surface.toDataURL()")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from regional_page import running_page

    with running_page(tmp_path_factory.mktemp("regional") / "layouts") as running:
        yield running


@pytest.fixture
def panel(browser: Any, address: str) -> Iterator[Panel]:
    context = browser.new_context(viewport={"width": 1200, "height": 1300})
    shown = Panel(context.new_page(), address).open()
    yield shown
    context.close()
    assert not shown.errors


def near(found: list[float], wanted: list[float], tolerance: float = 0.012) -> bool:
    return len(found) == len(wanted) and all(abs(a - b) <= tolerance for a, b in zip(found, wanted, strict=True))


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
    assert mask["t"] == "mask"
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


def test_pasted_parameters_replace_the_layout(panel: Panel) -> None:
    panel.drag((0.1, 0.1), (0.4, 0.4))
    panel.page.locator("#pasted textarea").fill(json.dumps(TWO))
    panel.page.locator("#paste").click()
    panel.page.wait_for_function(f"{DOC}.regions.length === 2")
    assert panel.page.locator(".loraclr-name").first.input_value() == "anna"
    assert panel.given() == TWO
    panel.page.locator(".loraclr-canvas").focus()
    panel.page.keyboard.press("Control+z")
    assert len(panel.spec()["regions"]) == 1


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
    assert [region.get("z", 0) for region in panel.spec()["regions"]] == [0, 1]
    keys.press("[")
    assert [region.get("z", 0) for region in panel.spec()["regions"]] == [1, 0]
    keys.press("PageDown")
    keys.press("Enter")
    keys.type("a dog")
    assert panel.spec()["regions"][0]["prompt"] == "a dog"
    keys.press("Escape")
    panel.page.locator(".loraclr-canvas").focus()
    keys.press("Delete")
    assert [region["prompt"] for region in panel.spec()["regions"]] == [""]
    assert panel.page.locator(".loraclr-number").first.get_attribute("aria-label").startswith("Region 1")


def test_fields_of_region_and_layout(panel: Panel) -> None:
    panel.load(TWO)
    card = panel.page.locator("[data-region=r1]")
    card.locator("summary").click()
    card.get_by_label("Negative prompt").fill("beard")
    card.get_by_label("Negative is").select_option("replace")
    strength = card.locator(".loraclr-field", has_text="Strength").locator("input[type=text]")
    strength.fill("0.7")
    strength.press("Tab")
    feather = card.locator(".loraclr-field", has_text="Soft edge").locator("input[type=text]")
    feather.fill("7")  # beyond the range
    feather.press("Tab")
    card.get_by_label("LoRAs only here").fill("<lora:ink:0.5> <lora:two:1:0>")
    panel.page.locator(".loraclr-settings summary").click()
    panel.page.get_by_label("Where regions overlap").select_option("top")
    solo = panel.page.locator(".loraclr-settings .loraclr-field", has_text="Each its own picture until")
    solo.locator("input[type=range]").fill("0.3")
    assert solo.locator("input[type=text]").input_value() == "0.3"
    region = panel.spec()["regions"][0]
    assert (region["neg"], region["negmode"], region["rho"], region["feather"]) == ("beard", "replace", 0.7, 0.5)
    assert region["loras"] == [{"name": "ink", "te": 0.5, "unet": 0.5}, {"name": "two", "te": 1, "unet": 0}]
    assert (panel.spec()["overlap"], panel.spec()["iso"]) == ("top", {"solo": 0.3})
    feather.fill("")
    feather.press("Tab")
    assert "feather" not in panel.spec()["regions"][0]

    from lib_loraclr.regional import validate_spec

    assert validate_spec(panel.spec())[1] == []


def test_concept_puts_trigger_and_tag_once(panel: Panel) -> None:
    panel.load(TWO)
    chooser = panel.page.locator("[data-region=r1]").get_by_label("Concept of a merged LoRA")
    chooser.select_option(label="anna — merged")
    panel.page.locator("[data-region=r2]").get_by_label("Concept of a merged LoRA").select_option(label="bert — merged")
    chooser.select_option(label="anna — merged")
    regions = panel.spec()["regions"]
    assert [region["prompt"] for region in regions] == ["anna1 woman, a woman", "bert1 man, a man"]
    assert panel.page.locator("#txt2img_prompt textarea").input_value() == "two people <lora:merged:1>"


def test_the_merge_tab_sends_every_concept_of_its_file(panel: Panel) -> None:
    panel.load(TWO)
    sent = {
        "lora": "trio",
        "concepts": [
            {"name": "anna", "trigger": "anna1", "class_word": "woman"},
            {"name": "bert", "trigger": "bert1 man", "class_word": "man"},
            {"name": "ink", "trigger": "", "class_word": "style"},
        ],
    }
    for _ in range(2):
        assert panel.page.evaluate("sent => loraclrRegional.receive(sent)", sent) is True
    regions = panel.spec()["regions"]
    assert [region["prompt"] for region in regions] == ["anna1 woman", "bert1 man", "style"]
    assert [region["concept"] for region in regions] == ["anna", "bert", "ink"]
    assert [region["shape"]["r"] for region in regions] == [
        [0, 0, 0.3333, 1],
        [0.3333, 0, 0.6667, 1],
        [0.6667, 0, 1, 1],
    ]
    assert panel.page.locator("#txt2img_prompt textarea").input_value() == "two people <lora:trio:1>"
    assert panel.spec()["iso"] == {"solo": SUBJECTS_SOLO}
    chooser = panel.page.locator("[data-region=r2]").get_by_label("Concept of a merged LoRA")
    assert chooser.locator("option:checked").inner_text() == "bert — trio"  # not the bert of another file
    panel.page.locator(".loraclr-canvas").focus()
    panel.page.keyboard.press("Control+z")
    panel.page.keyboard.press("Control+z")
    assert panel.spec() == TWO
    panel.load({**TWO, "iso": {"solo": 0.2}})
    seven = [{"name": f"c{k}", "trigger": f"t{k}"} for k in range(7)]
    panel.page.evaluate("sent => loraclrRegional.receive(sent)", {"lora": "many", "concepts": seven})
    boxes = [region["shape"]["r"] for region in panel.spec()["regions"]]
    assert boxes[3] == [0.75, 0, 1, 0.5]
    assert boxes[6] == [0.6667, 0.5, 1, 1]
    assert panel.spec()["iso"] == {"solo": 0.2}


def test_server_counts_tokens_and_shows_the_exact_weights(panel: Panel) -> None:
    panel.load(TWO)
    panel.page.wait_for_function("document.querySelector('.loraclr-tokens').textContent === '2/75'")
    panel.page.get_by_label("Show the exact weights that sampling uses").click()
    panel.page.locator(".loraclr-maps img").nth(4).wait_for()
    labels = panel.page.locator(".loraclr-maps figcaption").all_inner_texts()
    assert labels == [
        "picture 512 x 512",
        "layers of 64 x 64",
        "layers of 32 x 32",
        "layers of 16 x 16",
        "layers of 8 x 8",
    ]


def test_layouts_are_kept_and_a_bad_spec_is_said(panel: Panel) -> None:
    panel.load(TWO)
    panel.page.get_by_label("Layouts, import and export", exact=True).first.click()
    panel.page.get_by_label("Name of the layout").fill("../evil")
    panel.page.get_by_role("button", name="Save", exact=True).click()
    panel.page.locator(".loraclr-note", has_text="name").wait_for()
    panel.page.get_by_label("Name of the layout").fill("my pair")
    panel.page.get_by_role("button", name="Save", exact=True).click()
    panel.page.locator(".loraclr-preset", has_text="my pair").wait_for()
    panel.page.get_by_label("Text to import").fill('{"regions":[{"shape":{"t":"box","r":[0.5,0,0.5,1]},"prompt":"x"}]}')
    panel.page.get_by_role("button", name="Import", exact=True).click()
    panel.page.locator(".loraclr-note", has_text="no area").wait_for()
    panel.page.keyboard.press("Escape")
    panel.page.locator("#pasted textarea").fill("{broken")
    panel.page.locator("#paste").click()
    panel.page.locator(".loraclr-problem", has_text="not valid JSON").wait_for()
    assert len(panel.page.evaluate(f"{DOC}.regions")) == 2


def test_picture_size_is_followed(panel: Panel) -> None:
    panel.page.locator("#txt2img_height input[type=number]").fill("768")
    panel.page.keyboard.press("Tab")
    panel.page.wait_for_function(f"{DOC}.height === 768")
    width, height = panel.page.evaluate("(r => [r.width, r.height])(loraclrRegional.panels.get('txt2img').view.rect())")
    assert abs(height / width - 1.5) < 0.01


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 420])
def test_the_panel_fits_its_page(browser: Any, address: str, theme: str, width: int) -> None:
    """Nothing sticks out, in a narrow window either; LORACLR_SCREENSHOTS=DIR keeps the wide ones as pictures."""
    context = browser.new_context(viewport={"width": width, "height": 1300})
    panel = Panel(context.new_page(), f"{address}?__theme={theme}").open()
    panel.load({**TWO, "regions": [{**TWO["regions"][0], "concept": "anna"}, TWO["regions"][1]]})
    panel.tool("select")
    panel.page.locator("[data-region=r1] summary").click()
    panel.page.locator(".loraclr-settings summary").click()
    panel.page.get_by_label("Show the exact weights that sampling uses").click()
    panel.page.locator(".loraclr-maps img").nth(4).wait_for()
    out = panel.page.evaluate(
        """() => {
            const root = document.querySelector('.loraclr-regional');
            const {left, right} = root.getBoundingClientRect();
            const parts = [...root.querySelectorAll('button, input, select, textarea, img, canvas, summary')];
            return parts.map((part) => [part.outerHTML.slice(0, 80), part.getBoundingClientRect()])
                .filter(([, box]) => box.width && (box.left < left - 1 || box.right > right + 1)).map(([html]) => html);
        }"""
    )
    assert out == []
    assert panel.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    boxes = panel.page.locator(".loraclr-settings input[type=checkbox]")
    shown = [boxes.nth(k).screenshot() for k in range(2)]
    assert [boxes.nth(k).is_checked() for k in range(2)] == [False, True]
    assert shown[0] != shown[1]  # a check mark that nobody can see is none
    folder = os.environ.get("LORACLR_SCREENSHOTS")
    if folder and width > 500:
        panel.page.locator(".loraclr-regional").screenshot(path=f"{folder}/regional-{theme}.png")
    context.close()
    assert not panel.errors


def test_touch_draws_and_two_fingers_zoom(browser: Any, address: str) -> None:
    context = browser.new_context(viewport={"width": 500, "height": 1000}, has_touch=True)
    panel = Panel(context.new_page(), address).open()
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
