"""The few places where gradio 3.41 and gradio 4.40 want different words for the same thing."""

from __future__ import annotations

import inspect
from typing import Any

import gradio as gr

_CLICK = inspect.signature(gr.Button().click).parameters


def js(source: str) -> dict[str, str]:
    """The browser's part of an event, under the name that this gradio wants."""
    return {"js" if "js" in _CLICK else "_js": source}


def event(**arguments: Any) -> dict[str, Any]:
    """Arguments of every event of the tab: not queued (short, and needed while a job runs), and not in the API."""
    return {"queue": False, "show_progress": "hidden", "api_name": False, **arguments}


def volatile(component: Any) -> Any:
    """Keep a WebUI from storing the component's value and label in its ui-config.json."""
    component.do_not_save_to_config = True
    return component
