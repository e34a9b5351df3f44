"""The tab as a page of its own, where no WebUI brings style and script along."""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr

from lib_loraclr.app.application import Application
from lib_loraclr.frontends.gradio_compat import js
from lib_loraclr.frontends.tab.tab import build_tab

PACKAGE = Path(__file__).resolve().parents[2]
# Where style.css and javascript/ are: inside an installed package (pyproject.toml), else in the extension's folder.
FILES = next(folder for folder in (PACKAGE / "assets", PACKAGE.parent) if (folder / "style.css").is_file())


def build_page(application: Application) -> gr.Blocks:
    """The tab with the extension's own style.css and scripts."""
    style = (FILES / "style.css").read_text(encoding="utf-8")
    scripts = [FILES / "javascript" / f"loraclr_{name}.js" for name in ("bridge", "tab")]
    script = "\n".join(path.read_text(encoding="utf-8") for path in scripts)
    page = build_tab(application)
    with page:
        page.load(None, None, None, **js(_loader(style, script)))
    return page


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
