"""The gradio side of the panel: an accordion with an empty frame for the JavaScript, and hidden texts.

Works from one source under gradio 3.41.2 and 4.40.0.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gradio as gr

from lib_loraclr.frontends.gradio_compat import endpoint, event, hidden_text, js, volatile
from lib_loraclr.frontends.panel.form import panel_form
from lib_loraclr.frontends.panel.layouts import LayoutStore
from lib_loraclr.frontends.panel.questions import panel_bridge
from lib_loraclr.frontends.panel.services import PanelServices, as_json
from lib_loraclr.html import fragment

TITLE = "LoRACLR Regional"


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
    ids = {name: elem_id(name) for name in ("enabled", "spec")}
    config: dict[str, Any] = {
        "tab": tab,
        "ids": ids,
        "endpoint": f"loraclr_regional_{tab}",
        **panel_form(),
        "presets": layouts.listed(),
        "concepts": as_json(services.concepts()),
    }
    frame = fragment("panel.html", "frame", json.dumps(config))
    with accordion(value=False, label=TITLE, elem_id=ids["enabled"]) as enabled:
        gr.HTML(frame, elem_id=elem_id("panel"))
        spec = hidden_text(ids["spec"])
        endpoint(config["endpoint"], panel_bridge(services, layouts).answer)
    source = f"(text) => {{ loraclrRegional.specChanged({tab!r}, text); }}"
    spec.change(None, [spec], None, **event(**js(source)))
    return volatile(enabled), spec
