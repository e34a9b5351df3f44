"""`tab`: the merge tab of the WebUI in a page of its own."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_loraclr.core.errors import InputError


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add `tab` to the sub-parsers and return its parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "tab",
        help="the merge tab in the browser, without a WebUI",
        description="Serve the merge tab for a checkpoint and a folder of LoRAs. Needs gradio (3.41 or 4.40). Only "
        "this machine can open the page unless --listen is given. Ctrl-C ends it.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--checkpoint", metavar="C", help="the base model (.safetensors); without one only model-free methods run")
    add("--loras", metavar="DIR", required=True, help="the folder of LoRAs; merged files are written there")
    add("--port", type=int, metavar="N", help="default: the first free one from 7860")
    add("--listen", action="store_true", help="let other machines open the page; anybody who can reach it can merge")
    add("--device", metavar="D", default="auto", help="cpu, cuda, cuda:1 …; auto takes a GPU when there is one")
    add("--cache", metavar="DIR", help="where captured statistics are kept")
    add("--open", action="store_true", help="open the page in the browser")
    parser.set_defaults(run=run)
    return parser


@dataclass(frozen=True)
class Answer:
    """What is said when the page is closed."""

    address: str

    def as_json(self) -> dict[str, Any]:
        """Where the page was."""
        return {"ok": True, "address": self.address}

    def as_text(self) -> str:
        """A last line."""
        return "Closed."


def run(parsed: argparse.Namespace) -> Answer:
    """Serve the page until Ctrl-C."""
    folder = Path(parsed.loras).expanduser()
    checkpoint = Path(parsed.checkpoint).expanduser() if parsed.checkpoint else None
    if not folder.is_dir():
        raise InputError("folder-missing", "The folder of LoRAs does not exist.", file=str(folder), key="loras")
    if checkpoint is not None and not checkpoint.is_file():
        raise InputError("file-not-found", "The checkpoint does not exist.", file=str(checkpoint), key="checkpoint")
    try:
        from lib_loraclr.frontends.tab.tab import build_page
    except ImportError as error:
        message = (
            f"The tab needs gradio, and it cannot be loaded here ({error}); `pip install gradio==4.40.0` brings it."
        )
        raise InputError("gradio-missing", message) from error
    from lib_loraclr.hosts.standalone.application import StandaloneApplication

    cache = Path(parsed.cache) if parsed.cache else None
    application = StandaloneApplication(folder.resolve(), checkpoint, device=parsed.device, cache=cache)
    page = build_page(application)
    _, address, _ = page.launch(
        server_name="0.0.0.0" if parsed.listen else "127.0.0.1",
        server_port=parsed.port,
        inbrowser=parsed.open,
        share=False,
        show_api=False,
        prevent_thread_lock=True,
    )
    try:
        page.block_thread()
    finally:
        page.close()
    return Answer(str(address))
