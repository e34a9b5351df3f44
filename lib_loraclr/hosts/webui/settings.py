"""The extension's page in the WebUI's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modules import shared

SECTION = ("loraclr", "LoRACLR")


def register() -> None:
    """Add the page; called by the WebUI each time it builds its settings."""
    for name, option in _options().items():
        option.section = SECTION
        shared.opts.add_option(name, option)


def _options() -> dict[str, Any]:
    import gradio

    folder = shared.OptionInfo("", "Folder for captured statistics", gradio.Textbox, restrict_api=True)
    keep = shared.OptionInfo(True, "Keep captured statistics between merges")
    return {
        "loraclr_keep_statistics": keep.info("a second merge of the same LoRAs takes seconds"),
        "loraclr_cache_folder": folder.info("empty: the user's cache folder"),
    }


def cache_folder(default: Path) -> Path | None:
    """Where statistics are kept, by the user's settings; None: nowhere."""
    if not getattr(shared.opts, "loraclr_keep_statistics", True):
        return None
    given = str(getattr(shared.opts, "loraclr_cache_folder", "") or "").strip()
    return Path(given).expanduser() if given else default
