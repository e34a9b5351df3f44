"""What the tab shows, as data for its templates: list, cards, interference, costs, result, preview, errors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_loraclr.app.application import CatalogueEntry
from lib_loraclr.capture.concept import KINDS
from lib_loraclr.charts import dot_plot, heat_map
from lib_loraclr.core.errors import Cancelled, LoraclrError
from lib_loraclr.frontends.tab.choices import Choice
from lib_loraclr.frontends.tab.estimate import Estimate
from lib_loraclr.frontends.tab.facts import Facts, Interference
from lib_loraclr.frontends.tab.preview import COLUMNS, Grid
from lib_loraclr.html import fragment
from lib_loraclr.merging.outcome import ConceptOutcome, MergeOutcome
from lib_loraclr.model import ModelInfo

if TYPE_CHECKING:
    from markupsafe import Markup

OTHER_BASE = "Made for another base model than the loaded checkpoint."
SOME, MUCH = 0.05, 0.25  # interference: cosines of the weight changes
# kept at least, the bar's class, and how much of a concept that is
LEVELS = ((0.75, "good", "well"), (0.5, "fair", "mostly"), (0.2, "poor", "partly"), (-math.inf, "poor", "lost"))
MAPS = {"kept_by_block": "Kept by part of the model", "kept_by_kind": "Kept by kind of layer"}


@dataclass(frozen=True)
class Row:
    """What one line of the list shows; `facts` once its file was looked at, `reason` why it cannot be chosen."""

    name: str
    place: str
    facts: Facts | None = None
    thumbnail: str = ""
    reason: str = ""

    @property
    def merged_here(self) -> bool:
        """Whether the file holds a recipe that can be loaded."""
        return self.facts is not None and self.facts.recipe is not None


@dataclass(frozen=True)
class Card:
    """A choice with its place in the catalogue and what is known about its file."""

    choice: Choice
    entry: CatalogueEntry
    facts: Facts
    thumbnail: str = ""


@dataclass(frozen=True)
class MergeResult:
    """A finished merge with what the result panel and its buttons need."""

    outcome: MergeOutcome
    choices: Sequence[Choice]
    report: Mapping[str, Any] | None = None
    report_page: str = ""

    @property
    def name(self) -> str:
        """The new LoRA as prompts call it."""
        return self.outcome.out.stem

    @property
    def prompt(self) -> str:
        """What to put into a prompt: the LoRA's tag and every trigger."""
        words = ", ".join(dict.fromkeys(c.trigger.strip() for c in self.choices if c.trigger.strip()))
        return f"<lora:{self.name}:1> {words}".strip()


# -- notes -----------------------------------------------------------------------------------------------------------


def note(text: str, kind: str = "info", detail: str = "") -> Markup:
    """A line of its own for the user: kind info, warning or error. `detail` is set apart (file, key)."""
    return notes([(text, kind, detail)])


def notes(items: Sequence[tuple[str, str, str]]) -> Markup:
    """A line for each (text, kind, detail)."""
    return fragment("tab_parts.html", "notes", items)


def error_html(*errors: LoraclrError) -> Markup:
    """Errors as lines of their own; being cancelled is none."""
    return notes([_error(error) for error in errors])


def _error(error: LoraclrError) -> tuple[str, str, str]:
    if isinstance(error, Cancelled):
        return error.message, "info", ""
    where = Path(error.file).name if error.file else ""
    return error.message, "error", "" if where and where in error.message else where


# -- choosing --------------------------------------------------------------------------------------------------------


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


def list_html(entries: Iterable[CatalogueEntry], folder: Path) -> Markup:
    """All rows with nothing but names: no file is read for it. The page asks for the rest of what it shows."""
    rows: list[tuple[Row, str]] = []
    for entry in entries:
        row = Row(entry.name, place_of(entry, folder))
        words = " ".join([row.name, row.place, str(entry.user_metadata.get("activation text", ""))])
        rows.append((row, words.lower()))
    return fragment("tab_choose.html", "list", rows)


def row_html(row: Row) -> Markup:
    """The inside of a row whose file was read."""
    return fragment("tab_choose.html", "row_inside", row)


def model_html(model: ModelInfo | None) -> Markup:
    """Which base model a merge would use."""
    return fragment("tab_choose.html", "model_line", model)


def cards_html(cards: Sequence[Card], missing: Sequence[str] = ()) -> Markup:
    """All cards in the order of choosing, or what to do first."""
    return fragment("tab_choose.html", "cards", cards, missing, KINDS)


def card_html(card: Card) -> Markup:
    """One card."""
    return fragment("tab_choose.html", "card", card, KINDS)


# -- before and after the merge --------------------------------------------------------------------------------------


def interference_html(interference: Interference) -> Markup:
    """The matrix as a picture with names, and what it means for the merge."""
    names, matrix, pair = interference.names, interference.matrix, interference.highest
    chart: str = ""
    if matrix:
        chart = heat_map("Interference of every pair of LoRAs", names, names, matrix, low=-0.2, high=1)
    highest: dict[str, Any] = {}
    if pair is not None:
        value = matrix[pair[0]][pair[1]]
        level = (value >= SOME) + (value >= MUCH)
        highest = {"names": " + ".join(names[i] for i in sorted(pair)), "value": value, "level": level}
    return fragment("tab_merge.html", "interference", names, interference.problem, chart, highest)


def estimate_html(estimate: Estimate) -> Markup:
    """Time, steps, memory and size in a row."""
    return fragment("tab_merge.html", "estimate", estimate)


def result_html(result: MergeResult) -> Markup:
    """The whole result panel."""
    concepts = [_concept(concept) for concept in result.outcome.concepts]
    report = result.report
    comparison = _comparison(report) if report is not None else ""
    maps = _maps(report) if report is not None else {}
    # each sentence once, however many layers or files it is about
    warnings = Counter(warning.message for warning in result.outcome.warnings)
    return fragment("tab_merge.html", "result", result, concepts, comparison, maps, warnings)


def _concept(concept: ConceptOutcome) -> dict[str, Any]:
    """The table's row; a concept that was not measured has a name only."""
    if concept.kept is None:
        return {"name": concept.name, "kept": None}
    level, words = next(level[1:] for level in LEVELS if concept.kept >= level[0])
    return {
        "name": concept.name,
        "kept": concept.kept,
        "bar": min(max(concept.kept, 0.0), 1.0),
        "level": level,
        "words": words,
        "nearest_other": concept.nearest_other,
        "drift": concept.drift,
    }


def _comparison(report: Mapping[str, Any]) -> Markup | str:
    """This merge beside simpler ones from the same statistics."""
    variants: Sequence[Mapping[str, Any]] = report.get("variants") or ()
    if not variants:
        return ""
    names = [concept["name"] for concept in variants[0]["concepts"]]
    series = [(str(v["label"]), [concept["kept"] for concept in v["concepts"]]) for v in variants]
    return dot_plot("Kept per concept and way to merge", names, series)


def _maps(report: Mapping[str, Any]) -> dict[str, Markup]:
    """Title -> what is kept where."""
    names, before = report["overlap"]["names"], " before the distillation" if report["by_prediction"] else ""
    return {
        title + before: heat_map(title + before, names, report[field]["groups"], report[field]["kept"], low=0, high=1)
        for field, title in MAPS.items()
        if report[field]["groups"]
    }


def grid_html(grid: Grid) -> Markup:
    """The preview as a table with the concepts as rows."""
    return fragment("tab_merge.html", "grid", COLUMNS, grid.rows, grid.seed)
