"""Cards, texts, services and looks of the regional panel in a real browser.

Runs in whichever gradio is installed; 3.41.2 and 4.40.0 are the two that the WebUIs bring.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from panel_driver import DOC, TWO, Panel

from lib_loraclr.regional.spec import SUBJECTS_SEPARATE_UNTIL

pytestmark = pytest.mark.browser
pytest.importorskip("gradio", reason="gradio is not installed; tools/do.py browser brings it")


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
    solo = panel.page.locator(".loraclr-settings .loraclr-field", has_text="Separate denoising until")
    solo.locator("input[type=range]").fill("0.3")
    assert solo.locator("input[type=text]").input_value() == "0.3"
    region = panel.spec()["regions"][0]
    assert (region["negative"], region["negative_mode"], region["strength"], region["feather"]) == (
        "beard",
        "replace",
        0.7,
        0.5,
    )
    assert region["loras"] == [{"name": "ink", "te": 0.5, "unet": 0.5}, {"name": "two", "te": 1, "unet": 0}]
    assert (panel.spec()["overlap"], panel.spec()["isolation"]) == ("top", {"separate_until": 0.3})
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
            {"name": "anna", "trigger": "anna1", "phrase": "anna1 woman"},
            {"name": "bert", "trigger": "bert1 man", "phrase": "bert1 man"},
            {"name": "ink", "trigger": "", "phrase": "style"},
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
    assert panel.spec()["isolation"] == {"separate_until": SUBJECTS_SEPARATE_UNTIL}
    chooser = panel.page.locator("[data-region=r2]").get_by_label("Concept of a merged LoRA")
    assert chooser.locator("option:checked").inner_text() == "bert — trio"  # not the bert of another file
    panel.page.locator(".loraclr-canvas").focus()
    panel.page.keyboard.press("Control+z")
    panel.page.keyboard.press("Control+z")
    assert panel.spec() == TWO
    panel.load({**TWO, "isolation": {"separate_until": 0.2}})
    seven = [{"name": f"c{k}", "trigger": f"t{k}"} for k in range(7)]
    panel.page.evaluate("sent => loraclrRegional.receive(sent)", {"lora": "many", "concepts": seven})
    boxes = [region["shape"]["r"] for region in panel.spec()["regions"]]
    assert boxes[3] == [0.75, 0, 1, 0.5]
    assert boxes[6] == [0.6667, 0.5, 1, 1]
    assert panel.spec()["isolation"] == {"separate_until": 0.2}


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
def test_the_panel_fits_its_page(browser: Any, regional_address: str, theme: str, width: int) -> None:
    """Nothing sticks out, in a narrow window either; LORACLR_SCREENSHOTS=DIR keeps the wide ones as pictures."""
    context = browser.new_context(viewport={"width": width, "height": 1300})
    panel = Panel(context.new_page(), f"{regional_address}?__theme={theme}").open()
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
