"""The merge tab: gradio components, and which question of the controller each event asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from lib_loraclr.app.application import Application
from lib_loraclr.frontends.gradio_compat import event, js, volatile
from lib_loraclr.frontends.tab.cards import cards_html
from lib_loraclr.frontends.tab.controller import TabController
from lib_loraclr.frontends.tab.controls import (
    Controls,
    advanced_controls,
    main_controls,
    shown_groups,
    shown_rank,
    summary_html,
)
from lib_loraclr.frontends.tab.interference import Interference, interference_html
from lib_loraclr.frontends.tab.settings import NAMES, method_name, method_title, settle
from lib_loraclr.frontends.words import note, tag
from lib_loraclr.version import __version__

PROGRESS = (
    '<div id="loraclr_progress" class="lct-progress" hidden><div id="loraclr_hostbar"></div>'
    '<div class="lct-track" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-label="Progress">'
    '<span></span></div><p class="lct-live" aria-live="polite"><b data-part="phase"></b> '
    '<span data-part="step"></span> '
    '<span data-part="left"></span> <span data-part="text" class="lct-soft"></span></p></div>'
    '<div id="loraclr_status" aria-live="polite"></div>'
)
SEARCH = (
    '<div class="lct-search"><input id="loraclr_search" type="search" placeholder="Search LoRAs" '
    'aria-label="Search LoRAs" autocomplete="off" spellcheck="false"><label class="lct-check">'
    '<input id="loraclr_usable" type="checkbox"><span>Hide unusable</span></label>'
    '<span id="loraclr_count" class="lct-soft" aria-live="polite"></span></div>'
)


@dataclass
class _Parts:
    """Components that events read and write."""

    controls: dict[str, Any] = field(default_factory=dict[str, Any])
    boxes: dict[str, Any] = field(default_factory=dict[str, Any])
    buttons: dict[str, Any] = field(default_factory=dict[str, Any])
    panels: dict[str, Any] = field(default_factory=dict[str, Any])


def build_tab(application: Application) -> gr.Blocks:
    """The tab for one application; nothing is read from disk before the page shows it."""
    controller, parts = TabController(application), _Parts()
    with gr.Blocks(analytics_enabled=False, title="LoRACLR") as blocks, gr.Column(elem_id="loraclr_tab"):
        with gr.Row(elem_id="loraclr_columns"):
            with gr.Column(scale=4, min_width=320, elem_id="loraclr_left"):
                _picker(parts)
            with gr.Column(scale=8, min_width=320, elem_id="loraclr_right"):
                controls = _work(parts)
        _bridge(parts)
        _wire(controller, parts, controls)
    return blocks


def build_notice(message: str) -> gr.Blocks:
    """The tab of a program that cannot merge: one sentence."""
    with gr.Blocks(analytics_enabled=False, title="LoRACLR") as blocks:
        gr.HTML(note(message, "warning"), elem_id="loraclr_notice")
    return blocks


def _heading(number: str, text: str) -> str:
    return f'<h3 class="lct-heading"><span aria-hidden="true">{number}</span>{tag("span", text)}</h3>'


def _picker(parts: _Parts) -> None:
    gr.HTML(_heading("1", "Choose LoRAs"))
    parts.panels["model"] = gr.HTML("", elem_id="loraclr_model")
    gr.HTML(SEARCH)
    parts.panels["list"] = gr.HTML("", elem_id="loraclr_picker")
    parts.buttons["refresh"] = gr.Button("Refresh the list", size="sm", elem_id="loraclr_refresh")


def _work(parts: _Parts) -> Controls:
    gr.HTML(_heading("2", "Say what each one is"))
    parts.panels["cards"] = gr.HTML(cards_html([]), elem_id="loraclr_cards")
    gr.HTML(_heading("3", "See how much they interfere"))
    parts.panels["matrix"] = gr.HTML(interference_html(Interference()), elem_id="loraclr_matrix")
    gr.HTML(_heading("4", "Merge"))
    by_name = parts.controls
    with gr.Column(elem_id="loraclr_settings"):
        summary = main_controls(by_name)
        with gr.Accordion("Advanced", open=False, elem_id="loraclr_advanced"):
            groups = advanced_controls(by_name)
    with gr.Column(elem_id="loraclr_action"):
        parts.panels["estimate"] = gr.HTML("", elem_id="loraclr_costs")
        with gr.Row(elem_id="loraclr_run"):
            parts.buttons["merge"] = gr.Button("Merge", variant="primary", elem_id="loraclr_generate")
            parts.buttons["cancel"] = gr.Button("Cancel", variant="stop", elem_id="loraclr_interrupt")
        gr.HTML(PROGRESS)
    parts.panels["result"] = gr.HTML("", elem_id="loraclr_result")
    with gr.Column(elem_id="loraclr_after", elem_classes=["lct-off"]):
        _after(parts)
    gr.HTML(tag("p", f"sd-webui-loraclr {__version__}", "lct-soft lct-version"))
    return Controls(by_name, groups, summary)


def _after(parts: _Parts) -> None:
    """What can be done with a finished merge."""
    titles = {
        "insert": "Insert into txt2img", "regional": "Send to the regional prompter",
        "again": "Merge again from the cache", "recipe": "Load its recipe", "save": "Save the full report",
        "folder": "Open the folder",
    }  # fmt: skip
    with gr.Row(elem_classes=["lct-buttons"]):
        for name, title in titles.items():
            parts.buttons[name] = gr.Button(title, size="sm", elem_id=f"loraclr_{name}", min_width=120)
    with gr.Row(elem_id="loraclr_preview_row", elem_classes=["lct-row-2"]):
        inputs: list[tuple[str, Any]] = [
            ("template", gr.Textbox("a photo of {c}", label="Preview prompt", info="{c} stands for each concept.",
                                    max_lines=1, scale=4, min_width=200, elem_id="loraclr_template")),
            ("seed", gr.Number(0, label="Preview seed", precision=0, min_width=80, elem_id="loraclr_preview_seed")),
            ("steps", gr.Number(20, label="Preview steps", precision=0, min_width=80, elem_id="loraclr_preview_steps")),
            ("cfg", gr.Number(7, label="Preview CFG scale", min_width=80, elem_id="loraclr_preview_cfg")),
        ]  # fmt: skip
        parts.boxes |= {f"preview_{name}": volatile(box) for name, box in inputs}
        parts.buttons["preview"] = gr.Button("Paint the preview grid", min_width=160, elem_id="loraclr_preview")
    parts.panels["grid"] = gr.HTML("", elem_id="loraclr_grid")


def _bridge(parts: _Parts) -> None:
    """Between the page's script and the controller: it presses these and reads the reply; nobody sees them."""
    with gr.Row(elem_classes=["lct-off"], elem_id="loraclr_bridge"):
        for name in ("selection", "task", "question", "reply"):
            parts.boxes[name] = volatile(gr.Textbox("", label=f"LoRACLR {name}", elem_id=f"loraclr_{name}"))
        for name in ("open", "details", "sync", "matrix", "costs", "poll", "finish", "use", "page"):
            parts.buttons["_" + name] = gr.Button(name, elem_id=f"loraclr_do_{name}")


def _wire(controller: TabController, parts: _Parts, controls: Controls) -> None:
    box, button, panel = parts.boxes, parts.buttons, parts.panels
    selection, task, reply = box["selection"], box["task"], box["reply"]

    def on(name: str, call: Callable[..., Any], inputs: list[Any], outputs: list[Any], after: str, *asked: str) -> None:
        """Pressing `name`: the script fills the first inputs, the controller answers, the script reads the reply."""
        first = button[name].click(call, inputs, outputs, **event(**js(_filled(asked, len(inputs)))))
        if after:
            first.then(None, [reply], None, **event(**js(f"(reply) => {{ loraclrTab.{after}(reply); }}")))

    chosen, question, new_task = "selection()", "question()", "newTask()"
    listing = [panel["list"], panel["model"], reply]
    on("_open", lambda _: controller.open(), [task], listing, "opened")
    on("refresh", lambda _: controller.open(refresh=True), [task], listing, "opened")
    on("_details", controller.details, [box["question"]], [reply], "detailed", question)
    on("_sync", controller.cards, [selection], [panel["cards"], reply], "synced", chosen)
    on(
        "_matrix",
        lambda text: controller.interference(text) or gr.update(),
        [selection],
        [panel["matrix"]],
        "matrixShown",
        chosen,
    )
    on("_costs", controller.estimate, [selection, *controls.inputs], [panel["estimate"]], "costsShown", chosen)
    on("merge", controller.merge, [selection, task, *controls.inputs], [reply], "started", chosen, new_task)
    on("_poll", controller.poll, [task], [reply], "polled", "task()")
    on("cancel", lambda _: controller.cancel(), [task], [reply], "cancelled")
    name = controls.by_name["name"]
    finished = [panel["result"], panel["grid"], name, reply]
    on("_finish", lambda text: _finish(controller, text), [name], finished, "finished")
    settings = [reply, *controls.inputs]
    on("_use", lambda text: _use(controller, text), [box["question"]], settings, "recipeLoaded", question)
    on("_page", lambda _: controller.report(), [task], [reply], "saveReport")
    painted = [task, *(box[f"preview_{part}"] for part in ("template", "seed", "steps", "cfg"))]
    on("preview", controller.preview, painted, [reply], "started", new_task)
    on("folder", lambda _: controller.open_folder(), [task], [reply], "")
    for part in ("insert", "regional", "again", "recipe", "save"):
        button[part].click(None, None, None, **event(**js(f"() => {{ loraclrTab.{part}(); }}")))
    _wire_settings(controls)


def _filled(asked: Sequence[str], count: int) -> str:
    """JavaScript that puts answers of the page's script in the place of the first inputs.

    Gradio hands over the values of inputs and outputs, and wants back one value for each of the `count` inputs.
    """
    answers = "".join(f"loraclrTab.{answer}, " for answer in asked)
    return f"(...values) => [{answers}...values.slice({len(asked)}, {count})]"


def _finish(controller: TabController, name: str) -> tuple[str, str, str, str]:
    result, grid, reply = controller.finish()
    return result, grid, controller.next_name(name), reply


def _use(controller: TabController, name: str) -> list[Any]:
    reply, values = controller.load_recipe(name)
    if "method" in values:
        values["method"] = method_title(values["method"])
    return [reply, *(gr.update(value=values[key]) if key in values else gr.update() for key in NAMES)]


def _wire_settings(controls: Controls) -> None:
    """Preset and method settle each other; options show with their method."""
    named = controls.by_name
    preset, method, rank = named["preset"], named["method"], named["rank_kind"]

    def settled_method(chosen: str, title: str) -> str:
        return method_title(settle(chosen, method_name(title), changed="preset")[1])

    def settled_preset(chosen: str, title: str) -> str:
        return settle(chosen, method_name(title), changed="method")[0]

    preset.input(settled_method, [preset, method], [method], **event())
    method.input(settled_preset, [preset, method], [preset], **event())
    groups = list(controls.groups.values())
    method.change(lambda m: [summary_html(m), *shown_groups(m)], [method], [controls.summary, *groups], **event())
    rank.change(shown_rank, [rank], [named[f"rank_{kind}"] for kind in ("fixed", "energy", "size")], **event())
