"""The few places where gradio 3.41 and gradio 4.40 want different words for the same thing, and the bridge's texts."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import gradio as gr

_CLICK = inspect.signature(gr.Button().click).parameters


def js(source: str) -> dict[str, str]:
    """The browser's part of an event, under the name that this gradio wants."""
    return {"js" if "js" in _CLICK else "_js": source}


def event(**arguments: Any) -> dict[str, Any]:
    """Arguments of our events: not queued (short, and needed while a job runs), and not in the API."""
    return {"queue": False, "show_progress": "hidden", "api_name": False, **arguments}


def volatile(component: Any) -> Any:
    """Keep a WebUI from storing the component's value and label in its ui-config.json."""
    component.do_not_save_to_config = True
    return component


def hidden_text(elem_id: str) -> gr.Textbox:
    """A text that only the page's script and this process see.

    Hidden by style, not by `visible=False`: newer versions of gradio leave invisible components out of the page.
    """
    return volatile(
        gr.Textbox("", elem_id=elem_id, elem_classes=["loraclr-hidden"], label=elem_id, show_label=False,
                   container=False, lines=2)
    )  # fmt: skip


def endpoint(name: str, answer: Callable[[str], str]) -> None:
    """Let the page's script ask `answer` by name: a hidden question is its parameter, a hidden answer its result.

    The script calls gradio's own address of the endpoint, so that the page's login holds and no route of ours is
    needed. It does not write into the texts: in gradio 4.40 every event that carries a value puts a warning into the
    browser's console, and one text could hold one question at a time only.
    """
    question, result = hidden_text(f"{name}_question"), hidden_text(f"{name}_answer")
    question.submit(answer, [question], [result], **event(api_name=name))
