"""The merge tab: gradio components, and which questions of the controller the page's script can ask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr

from lib_loraclr.app.application import Application
from lib_loraclr.frontends.bridge import Bridge
from lib_loraclr.frontends.gradio_compat import endpoint, event, hidden_text, js, volatile
from lib_loraclr.frontends.tab.controller import TabController
from lib_loraclr.frontends.tab.controls import (
    Controls,
    advanced_controls,
    main_controls,
    shown_groups,
    shown_rank,
    summary_html,
)
from lib_loraclr.frontends.tab.facts import Interference
from lib_loraclr.frontends.tab.settings import NAMES, method_name, method_title, settle
from lib_loraclr.frontends.tab.views import cards_html, interference_html, note
from lib_loraclr.html import fragment
from lib_loraclr.version import __version__

PACKAGE = Path(__file__).resolve().parents[2]
# Where style.css and javascript/ are: inside an installed package (pyproject.toml), else in the extension's folder.
FILES = next(folder for folder in (PACKAGE / "assets", PACKAGE.parent) if (folder / "style.css").is_file())
PREVIEW = ("template", "seed", "steps", "cfg")


def build_tab(application: Application) -> gr.Blocks:
    """The tab for one application; nothing is read from disk before the page shows it."""
    controller = TabController(application)
    with gr.Blocks(analytics_enabled=False, title="LoRACLR") as blocks, gr.Column(elem_id="loraclr_tab"):
        with gr.Row(elem_id="loraclr_columns"):
            with gr.Column(scale=4, min_width=320, elem_id="loraclr_left"):
                _picker()
            with gr.Column(scale=8, min_width=320, elem_id="loraclr_right"):
                controls, preview = _work()
        with gr.Row(elem_classes=["lct-off"]):
            endpoint("loraclr_tab", Bridge(controller.answers).answer)
            _carry_settings(controls, preview)
        _wire_settings(controls)
    return blocks


def build_page(application: Application) -> gr.Blocks:
    """The tab as a page of its own, where no WebUI brings style and scripts along."""
    style = (FILES / "style.css").read_text(encoding="utf-8")
    scripts = [FILES / "javascript" / f"loraclr_{name}.js" for name in ("bridge", "tab")]
    script = "\n".join(path.read_text(encoding="utf-8") for path in scripts)
    page = build_tab(application)
    with page:
        page.load(None, None, None, **js(_loader(style, script)))
    return page


def build_notice(message: str) -> gr.Blocks:
    """The tab of a program that cannot merge: one sentence."""
    with gr.Blocks(analytics_enabled=False, title="LoRACLR") as blocks:
        gr.HTML(note(message, "warning"), elem_id="loraclr_notice")
    return blocks


def _heading(number: int, text: str) -> str:
    return fragment("tab_parts.html", "heading", number, text)


def _panel(name: str, html: str = "") -> None:
    """HTML that the page's script puts in the place of what is there."""
    gr.HTML(fragment("tab_parts.html", "panel", name, html), elem_id=f"loraclr_{name}")


def _picker() -> None:
    gr.HTML(_heading(1, "Choose LoRAs"))
    _panel("model")
    gr.HTML(fragment("tab_choose.html", "search"))
    _panel("picker")
    gr.Button("Refresh the list", size="sm", elem_id="loraclr_refresh")


def _work() -> tuple[Controls, list[Any]]:
    """The settings' controls, and those of the preview in the order of `PREVIEW`."""
    gr.HTML(_heading(2, "Say what each one is"))
    _panel("cards", cards_html([]))
    gr.HTML(_heading(3, "See how much they interfere"))
    _panel("matrix", interference_html(Interference()))
    gr.HTML(_heading(4, "Merge"))
    by_name: dict[str, Any] = {}
    with gr.Column(elem_id="loraclr_settings"):
        summary = main_controls(by_name)
        with gr.Accordion("Advanced", open=False, elem_id="loraclr_advanced"):
            groups = advanced_controls(by_name)
    with gr.Column(elem_id="loraclr_action"):
        _panel("costs")
        with gr.Row(elem_id="loraclr_run"):
            gr.Button("Merge", variant="primary", elem_id="loraclr_generate")
            gr.Button("Cancel", variant="stop", elem_id="loraclr_interrupt")
        gr.HTML(fragment("tab_merge.html", "progress"))
    _panel("result")
    with gr.Column(elem_id="loraclr_after", elem_classes=["lct-off"]):
        preview = _after()
    gr.HTML(fragment("tab_parts.html", "soft", f"sd-webui-loraclr {__version__}", "lct-version"))
    return Controls(by_name, groups, summary), preview


def _after() -> list[Any]:
    """What can be done with a finished merge; returns the preview's controls."""
    titles = {
        "insert": "Insert into txt2img", "regional": "Send to the regional prompter",
        "again": "Merge again from the cache", "recipe": "Load its recipe", "save": "Save the full report",
        "folder": "Open the folder",
    }  # fmt: skip
    with gr.Row(elem_classes=["lct-buttons"]):
        for name, title in titles.items():
            gr.Button(title, size="sm", elem_id=f"loraclr_{name}", min_width=120)
    with gr.Row(elem_id="loraclr_preview_row", elem_classes=["lct-row-2"]):
        boxes: list[Any] = [
            gr.Textbox("a photo of {c}", label="Preview prompt", info="{c} stands for each concept.", max_lines=1,
                       scale=4, min_width=200, elem_id="loraclr_template"),
            gr.Number(0, label="Preview seed", precision=0, min_width=80, elem_id="loraclr_preview_seed"),
            gr.Number(20, label="Preview steps", precision=0, min_width=80, elem_id="loraclr_preview_steps"),
            gr.Number(7, label="Preview CFG scale", min_width=80, elem_id="loraclr_preview_cfg"),
        ]  # fmt: skip
        gr.Button("Paint the preview grid", min_width=160, elem_id="loraclr_preview")
    _panel("grid")
    return [volatile(box) for box in boxes]


def _carry_settings(controls: Controls, preview: list[Any]) -> None:
    """The controls' values to the page's script, which presses the button, and from it, through the hidden text."""
    names = json.dumps([*NAMES, *(f"preview.{name}" for name in PREVIEW)])
    gather = gr.Button("Gather the settings", elem_id="loraclr_gather")
    source = f"(...values) => {{ loraclrTab.gathered({names}, values); }}"
    gather.click(None, [*controls.inputs, *preview], None, **event(**js(source)))
    spread = hidden_text("loraclr_spread")
    spread.change(_spread, [spread], controls.inputs, **event())


def _spread(text: str) -> list[Any]:
    """Updates of the controls for settings by name, in JSON."""
    values: dict[str, Any] = json.loads(text or "{}")
    if "method" in values:
        values["method"] = method_title(values["method"])
    return [gr.update(value=values[name]) if name in values else gr.update() for name in NAMES]


def _wire_settings(controls: Controls) -> None:
    """Preset and method settle each other; options show with their method."""
    named = controls.by_name
    preset, method, rank = named["preset"], named["method"], named["rank_kind"]

    def settled_method(chosen: str, title: str) -> str:
        return method_title(settle(chosen, method_name(title), changed="preset")[1])

    def settled_preset(chosen: str, title: str) -> str:
        return settle(chosen, method_name(title), changed="method")[0]

    def described(title: str) -> list[Any]:
        return [summary_html(title), *shown_groups(title)]

    preset.input(settled_method, [preset, method], [method], **event())
    method.input(settled_preset, [preset, method], [preset], **event())
    groups = list(controls.groups.values())
    method.change(described, [method], [controls.summary, *groups], **event())
    rank.change(shown_rank, [rank], [named[f"rank_{kind}"] for kind in ("fixed", "energy", "size")], **event())


def _loader(style: str, script: str) -> str:
    """A function for the browser that adds both to the page once; `var` of the script becomes the page's own."""
    return (
        "() => { if (!document.getElementById('loraclr_style')) {"
        " const style = document.createElement('style'); style.id = 'loraclr_style';"
        f" style.textContent = {_text(style)};"
        f" const script = document.createElement('script'); script.textContent = {_text(script)};"
        " document.head.append(style, script); } }"
    )


def _text(source: str) -> str:
    """A JavaScript string literal."""
    return json.dumps(source).replace("</", "<\\/").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
