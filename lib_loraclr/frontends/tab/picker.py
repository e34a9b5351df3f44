"""The list to choose from: every LoRA of the program's folders, with the reason where one cannot be used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from lib_loraclr.app.application import CatalogueEntry
from lib_loraclr.frontends.tab.facts import Facts
from lib_loraclr.frontends.words import family_name, note, size_text, tag
from lib_loraclr.model import ModelInfo

OTHER_BASE = "Made for another base model than the loaded checkpoint."
NO_MODEL = "No checkpoint is loaded; only instant merges can run."


@dataclass(frozen=True)
class Row:
    """What one line of the list shows once its file was looked at; `reason` says why it cannot be chosen."""

    name: str
    place: str
    facts: Facts
    thumbnail: str = ""
    reason: str = ""

    @property
    def merged_here(self) -> bool:
        """Whether the file holds a recipe that can be loaded."""
        return self.facts.recipe is not None


def row_of(entry: CatalogueEntry, facts: Facts, thumbnail: str, model: ModelInfo | None, folder: Path) -> Row:
    """A row and its reason."""
    reason = facts.problem
    if not reason and model is not None and facts.family not in ("unknown", model.family):
        reason = OTHER_BASE
    return Row(entry.name, place_of(entry, folder), facts, thumbnail, reason)


def place_of(entry: CatalogueEntry, folder: Path) -> str:
    """The folder below the LoRA folder that holds the file; empty for the LoRA folder itself."""
    try:
        below = entry.path.parent.relative_to(folder).as_posix()
    except ValueError:
        return entry.path.parent.name
    return "" if below == "." else below


def list_html(entries: Iterable[CatalogueEntry], folder: Path) -> str:
    """All rows with nothing but names: no file is read for it. The page asks for the rest of what it shows."""
    rows = [_empty_row(entry, place_of(entry, folder)) for entry in entries]
    if not rows:
        return '<div class="lct-empty">' + tag("p", "There is no LoRA in the folder yet.") + "</div>"
    return (
        '<div class="lct-list" id="loraclr_list" role="listbox" aria-multiselectable="true" aria-label="LoRAs">'
        f"{''.join(rows)}</div>"
    )


def _empty_row(entry: CatalogueEntry, place: str) -> str:
    words = " ".join([entry.name, place, str(entry.user_metadata.get("activation text", ""))]).lower()
    name, search = escape(entry.name, quote=True), escape(words, quote=True)
    row = f'<div class="lct-row" role="option" tabindex="-1" aria-selected="false">{_inside(entry.name, place)}</div>'
    return f'<div class="lct-item" role="presentation" data-name="{name}" data-search="{search}">{row}</div>'


def row_html(row: Row) -> str:
    """The inside of a row whose file was read."""
    badges: list[str] = []
    if not row.facts.problem:
        badges.append(tag("span", family_name(row.facts.family), "lct-badge"))
        if row.facts.rank_text:
            badges.append(f'<span class="lct-badge"><span>rank</span> {escape(row.facts.rank_text)}</span>')
        types = ", ".join(name for name in row.facts.types if name != "lora")
        badges += [tag("span", types, "lct-badge")] if types else []
        badges += [tag("span", "merged", "lct-badge lct-mine")] if row.merged_here else []
    if row.facts.bytes:
        badges.append(tag("span", size_text(row.facts.bytes), "lct-badge"))
    return _inside(row.name, row.place, row.thumbnail, "".join(badges), row.reason)


def _inside(name: str, place: str, thumbnail: str = "", badges: str = "", reason: str = "") -> str:
    where = tag("span", place, "lct-place") if place else ""
    why = tag("span", reason, "lct-reason") if reason else ""
    return (
        f'<span class="lct-tick" aria-hidden="true"></span>{picture_html(name, thumbnail)}'
        f'<span class="lct-main"><span class="lct-name">{escape(name)}</span>{where}'
        f'<span class="lct-badges">{badges}</span>{why}</span>'
    )


def picture_html(name: str, thumbnail: str) -> str:
    """The preview, or the first letter on a colour of its own."""
    if thumbnail:
        return f'<img class="lct-thumb" src="{escape(thumbnail, quote=True)}" alt="" loading="lazy">'
    hue = sum(ord(letter) * (7 * number + 1) for number, letter in enumerate(name)) % 360
    letter = escape(name.strip()[:1].upper() or "?")
    return f'<span class="lct-thumb lct-letter" style="--hue:{hue}" aria-hidden="true">{letter}</span>'


def model_html(model: ModelInfo | None) -> str:
    """Which base model a merge would use."""
    if model is None:
        return note(NO_MODEL, "warning")
    name, family = tag("b", model.name), tag("span", family_name(model.family), "lct-badge")
    size = tag("span", f"{model.native_size} px", "lct-badge")
    device = tag("span", str(model.device), "lct-badge")
    return f'<p class="lct-model"><span>Base model</span> {name} {family} {size} {device}</p>'
