"""The merge tab in a real browser: choose, see, merge, cancel, load back. Runs under gradio 3.41.2 and 4.40.0."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import pytest

pytestmark = pytest.mark.browser


def model_state(application: Any) -> tuple[int, str]:
    """(hooks on the model, digest of its weights)."""
    host = application.open_host(None, "auto")
    modules = list(host.layers().values())
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)
    digest = hashlib.sha256()
    for module in modules:
        digest.update(module.weight.detach().cpu().numpy().tobytes())
    return hooks, digest.hexdigest()


def test_the_list_says_what_can_be_chosen_and_why_not(tab_page: Any) -> None:
    tab_page.open()
    names = tab_page.tab.names
    assert "SD 1" in tab_page.row(names[0]).inner_text()
    other, cut = tab_page.row("other base"), tab_page.row("cut short")
    other.locator(".lct-reason").wait_for()
    assert "another base model" in other.inner_text()
    assert "truncated" in cut.inner_text()
    other.click(force=True)
    tab_page.page.locator("#loraclr_search").fill("cut")
    assert tab_page.page.locator(".lct-item:visible").count() == 1
    tab_page.page.locator("#loraclr_search").fill("")
    tab_page.page.locator("#loraclr_usable").check()
    tab_page.page.locator('.lct-item[data-name="cut short"]').wait_for(state="hidden")
    assert tab_page.page.locator(".lct-card").count() == 0
    tab_page.page.set_viewport_size({"width": 420, "height": 900})
    tab_page.page.locator("#loraclr_usable").uncheck()
    tab_page.choose(names[0])
    wide = tab_page.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 420
    tab_page.shot("narrow")


def test_no_two_components_share_an_id(merge_tab: Any) -> None:
    from lib_loraclr.frontends.tab.tab import build_tab

    found = [block.elem_id for block in build_tab(merge_tab.application).blocks.values() if block.elem_id]
    assert sorted(found) == sorted(set(found))


def test_everything_can_be_chosen_by_keyboard(tab_page: Any) -> None:
    tab_page.open()
    first, second, _ = tab_page.tab.names
    keys = tab_page.page.keyboard
    tab_page.page.locator("#loraclr_search").focus()
    keys.type(first)
    keys.press("Enter")
    tab_page.card(first).wait_for()
    keys.press("Escape")
    assert tab_page.page.locator("#loraclr_search").input_value() == ""
    keys.type(second)
    keys.press("ArrowDown")
    keys.press("Space")
    tab_page.card(second).wait_for()
    tab_page.card(first).locator(".lct-remove").focus()
    keys.press("Enter")
    tab_page.card(first).wait_for(state="detached")
    assert tab_page.card(second).count() == 1


def test_choose_see_merge_and_load_back(tab_page: Any) -> None:
    from lib_loraclr.app.catalogue import lora_files
    from lib_loraclr.merging.inputs import overlap
    from lib_loraclr.model import SilentProgress

    tab_page.open()
    tab, names, page = tab_page.tab, tab_page.tab.names, tab_page.page
    tab_page.choose(*names)
    page.locator("#loraclr_matrix svg").wait_for()
    page.locator("#loraclr_matrix svg .cell").nth(8).wait_for()
    paths = {path.stem: path for path in lora_files(tab.loras)}
    expected = overlap([paths[name] for name in names], progress=SilentProgress()).matrix
    shown = [float(text) for text in page.locator("#loraclr_matrix svg .cell").all_text_contents()]
    assert shown == [round(value, 2) + 0.0 for row in expected for value in row]
    tab_page.shot("chosen")
    tab_page.field(names[0], "weight").fill("0.9")
    tab_page.field(names[1], "trigger").fill(f"{names[1]} person")
    tab_page.quick(steps=12)
    tab_page.name("three")
    page.locator("#loraclr_costs .lct-fact").first.wait_for()
    tab_page.shot("advanced", "#loraclr_settings")
    before = tab_page.cards_now()
    tab_page.merge()
    page.evaluate("document.querySelector('#loraclr_generate').click()")  # a second click on a button that is disabled
    seen, live = set[float](), set[str]()
    while page.locator("#loraclr_progress").is_visible():
        seen.add(tab_page.percent())
        live.add(page.locator('[data-part="phase"]').inner_text())
        time.sleep(0.05)
    tab_page.wait_done()
    page.locator(".lct-result").wait_for()
    assert tab.merged() == ["three"]
    assert len(seen) >= 3
    assert live & {"Watching the model", "Solving"}
    text = page.locator("#loraclr_result").first.inner_text()
    assert "three.safetensors" in text
    assert "<lora:three:1>" in text
    assert page.locator(".lct-table tbody tr").count() == 3
    assert page.locator("#loraclr_result svg").count() >= 2
    tab_page.row("three").locator(".lct-mine").wait_for()
    tab_page.shot("result", "#loraclr_result")
    tab_page.set_number("loraclr_preview_steps", tab_page.for_shots(20, 4))
    tab_page.set_number("loraclr_preview_cfg", 4)
    page.locator("#loraclr_preview").click()
    page.locator("#loraclr_grid img").nth(8).wait_for(timeout=240_000)
    assert page.locator("#loraclr_grid img").count() == 9
    tab_page.wait_done()
    tab_page.shot("preview", "#loraclr_grid")

    for name in names:
        tab_page.row(name).click()
    page.locator(".lct-card").first.wait_for(state="detached")
    tab_page.set_number("loraclr_capture_sampling_steps", 5)
    page.locator('.lct-item[data-name="three"] .lct-use-recipe').click()
    tab_page.card(names[2]).wait_for()
    page.wait_for_function("document.querySelector('#loraclr_capture_sampling_steps input').value === '12'")
    assert tab_page.cards_now() == before
    tab_page.shot("recipe", "#loraclr_list")
    assert page.locator("#loraclr_name :is(input, textarea)").input_value() == "three-2"
    tab_page.open()  # a page that finds a result shows it, but stays where it is
    page.locator("#loraclr_again").wait_for()
    assert page.evaluate("[window.scrollY, document.querySelector('#loraclr_list').scrollTop]") == [0, 0]


def test_cancel_half_way_leaves_nothing(tab_page: Any) -> None:
    tab_page.open()
    tab, page = tab_page.tab, tab_page.page
    files, state = sorted(tab.loras.iterdir()), model_state(tab.application)
    tab_page.choose(*tab.names)
    tab_page.quick(steps=100)
    tab_page.name("never")
    tab_page.merge()
    page.wait_for_function(
        "Number(document.querySelector('.lct-track').getAttribute('aria-valuenow')) > 4", timeout=120_000
    )
    tab_page.shot("running", "#loraclr_action")
    page.locator("#loraclr_interrupt").click()
    tab_page.wait_done()
    page.locator("#loraclr_status .lct-note").wait_for()
    tab_page.shot("cancelled", "#loraclr_action")
    assert "Cancelled; nothing was written." in page.locator("#loraclr_status").inner_text()
    assert sorted(tab.loras.iterdir()) == files
    assert model_state(tab.application) == state
    assert state[0] == 0


def test_a_page_opened_during_a_merge_follows_it(tab_page: Any, browser: Any) -> None:
    from tab_page import TabPage

    tab_page.open()
    tab_page.choose(*tab_page.tab.names)
    tab_page.quick(steps=1000)
    tab_page.name("never")
    tab_page.merge()
    other = TabPage(browser.new_page(), tab_page.tab)
    try:
        other.page.route("**/*", lambda r: r.continue_() if "127.0.0.1" in r.request.url else r.abort())
        other.open()
        other.page.locator("#loraclr_progress").wait_for()
        assert other.page.locator("#loraclr_generate").is_disabled()
        other.page.locator("#loraclr_interrupt").click()
        other.wait_done()
        tab_page.wait_done()
    finally:
        other.page.close()
    assert "never" not in tab_page.tab.merged()
