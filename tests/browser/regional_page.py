"""A plain gradio page with the regional panel in it, under either version of gradio: `python regional_page.py PORT`.

It stands in for a WebUI: same hidden texts, size sliders and prompt ids, `style.css` and the JavaScript files in the
order in which a WebUI lists them. "Generate" shows what the script would have been given; "Paste" sets the hidden text
as pasting a picture's parameters does.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import gradio as gr  # noqa: E402

from lib_loraclr.frontends.panel.layouts import LayoutStore  # noqa: E402
from lib_loraclr.frontends.panel.panel import build_panel  # noqa: E402
from lib_loraclr.frontends.panel.services import Concept  # noqa: E402


class Services:
    """Counts words, knows two concepts."""

    def count_tokens(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        return [(len(text.split()), 75) for text in texts]

    def concepts(self) -> list[Concept]:
        return [
            Concept("anna", "anna1 woman", "merged", phrase="anna1 woman"),
            Concept("bert", "bert1", "merged", 0.8, "bert1 man"),
        ]


@contextmanager
def accordion(value: bool, label: str, elem_id: str) -> Iterator[Any]:
    """As the hosts' InputAccordion: an open accordion and its value."""
    enabled = gr.Checkbox(value=True, label=label, elem_id=elem_id)
    with gr.Accordion(label, open=True):
        yield enabled


def build(folder: Path) -> gr.Blocks:
    """The page."""
    with gr.Blocks(analytics_enabled=False) as page:
        gr.Textbox(value="two people", label="Prompt", elem_id="txt2img_prompt")
        gr.Slider(64, 2048, value=512, label="Width", interactive=True, elem_id="txt2img_width")
        gr.Slider(64, 2048, value=512, label="Height", interactive=True, elem_id="txt2img_height")
        layouts = LayoutStore(folder)
        enabled, spec = build_panel("txt2img", lambda name: f"regional_{name}", accordion, Services(), layouts)
        button = gr.Button("Generate", elem_id="generate")
        shown = gr.Textbox(label="Given", elem_id="given", lines=3)
        button.click(lambda on, text: json.dumps([on, text]), [enabled, spec], [shown], queue=False)
        pasted = gr.Textbox(label="Pasted", elem_id="pasted")
        gr.Button("Paste", elem_id="paste").click(lambda text: text, [pasted], [spec], queue=False)
    return page


@contextmanager
def host_scripts() -> Iterator[None]:
    """Style and JavaScript in the head of every page, file after file, as the WebUIs do it."""
    original = gr.routes.templates.TemplateResponse

    def response(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        files = sorted((ROOT / "javascript").glob("loraclr_*.js"))
        head = "".join(f"<script>{path.read_text(encoding='utf-8')}</script>" for path in files)
        head += f"<style>{(ROOT / 'style.css').read_text(encoding='utf-8')}</style>"
        result.body = result.body.replace(b"</head>", head.encode() + b"</head>")
        result.init_headers()
        return result

    gr.routes.templates.TemplateResponse = response
    try:
        yield
    finally:
        gr.routes.templates.TemplateResponse = original


@contextmanager
def running_page(folder: Path, port: int | None = None) -> Iterator[str]:
    """The page's address while it is served from this process."""
    page = build(folder)
    with host_scripts():
        options = {"server_port": port, "server_name": "127.0.0.1", "quiet": True, "show_api": False}
        page.launch(prevent_thread_lock=True, **options)
        try:
            yield str(page.local_url)
        finally:
            page.close()


if __name__ == "__main__":
    with running_page(Path(tempfile.mkdtemp()) / "layouts", int(sys.argv[1])) as address:
        print(address, flush=True)
        sys.stdin.read() if sys.stdin.isatty() else __import__("threading").Event().wait()
