"""The gradio side of the panel: an accordion with an empty frame for the JavaScript, and three hidden texts.

Works from one source under gradio 3.41.2 and 4.40.0. The texts are hidden by style, not by `visible=False`: newer
versions of gradio leave invisible components out of the page.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from typing import Any

import gradio as gr

from lib_loraclr.frontends.panel.form import panel_form
from lib_loraclr.frontends.panel.layouts import LayoutStore
from lib_loraclr.frontends.panel.questions import Questions
from lib_loraclr.frontends.panel.services import PanelServices, as_json

TITLE = "LoRACLR Regional"
HIDDEN = ["loraclr-hidden"]


def js(code: str) -> dict[str, str]:
    """Keyword argument of an event listener that runs JavaScript, as this gradio calls it."""
    return {"_js" if gr.__version__.startswith("3.") else "js": code}


def hidden_text(elem_id: str) -> gr.Textbox:
    """A text that only JavaScript and the server see; never saved as a default of the page."""
    box = gr.Textbox(
        value="", elem_id=elem_id, elem_classes=HIDDEN, label=elem_id, show_label=False, container=False, lines=2
    )
    box.do_not_save_to_config = True
    return box


def build_panel(
    tab: str,
    elem_id: Callable[[str], str],
    accordion: Callable[..., Any],
    services: PanelServices,
    layouts: LayoutStore,
) -> tuple[Any, gr.Textbox]:
    """(enabled, spec) components. `tab` is "txt2img" or "img2img"; `accordion` is the host's InputAccordion.

    Building has no side effects and may be repeated (the API builds the page twice more).
    """
    ids = {"tab": tab, **{name: elem_id(name) for name in ("enabled", "spec", "question", "answer")}}
    config = {
        "tab": tab,
        "ids": ids,
        **panel_form(),
        "presets": layouts.listed(),
        "concepts": as_json(services.concepts()),
    }
    frame = f'<div class="loraclr-regional" data-config="{html.escape(json.dumps(config), quote=True)}"></div>'
    with accordion(value=False, label=TITLE, elem_id=elem_id("enabled")) as enabled:
        gr.HTML(frame, elem_id=elem_id("panel"))
        spec, question, answer = (hidden_text(ids[name]) for name in ("spec", "question", "answer"))
    enabled.do_not_save_to_config = True
    asked = Questions(services, layouts)
    spec.change(
        fn=None, inputs=[spec], outputs=[], **js(f"(text) => {{ loraclrRegional.bridge.specChanged({tab!r}, text); }}")
    )
    question.change(fn=asked.answer, inputs=[question], outputs=[answer], queue=False, show_progress="hidden")
    answer.change(
        fn=None, inputs=[answer], outputs=[], **js(f"(text) => {{ loraclrRegional.bridge.answered({tab!r}, text); }}")
    )
    return enabled, spec
