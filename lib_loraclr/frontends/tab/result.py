"""What came out of a merge: how much of each concept is kept, beside what simpler means would have kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from lib_loraclr.charts import dot_plot, heat_map
from lib_loraclr.formats import FileWarning
from lib_loraclr.frontends.tab.choices import Choice
from lib_loraclr.frontends.words import note, size_text, tag, time_text
from lib_loraclr.merging.outcome import ConceptOutcome, MergeOutcome

HALF = 0.5
LEVELS = ((0.75, "good", "well"), (HALF, "fair", "mostly"), (0.2, "poor", "partly"), (-math.inf, "poor", "lost"))
LOW = "Less than half of a concept is kept. The preset Best, more refinement rounds, a higher rank or fewer LoRAs help."
UNMEASURED = (
    "This method only does arithmetic on the files, so nothing was measured on the model. The presets Text, Full and "
    "Best measure what is kept."
)
EXPLAIN = (
    "Kept: share of the LoRA's own effect that the merge reproduces, on prompts that the solver did not see. Drift: "
    "what the merge changes in ordinary pictures, beside what the LoRAs change in theirs."
)


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


def result_html(result: MergeResult) -> str:
    """The whole result panel."""
    parts = [_headline(result), _use(result.prompt), _concepts(result.outcome.concepts)]
    if result.report is not None:
        parts += [_ways(result.report), _maps(result.report)]
    parts.append(warnings_html(result.outcome.warnings))
    return f'<section class="lct-result" aria-label="Result">{"".join(parts)}</section>'


def _headline(result: MergeResult) -> str:
    out = result.outcome
    kept = [concept.kept for concept in out.concepts if concept.kept is not None]
    facts = [("File", size_text(out.bytes)), ("Time", time_text(out.seconds.get("total", 0.0)))]
    if kept:
        facts += [("Kept on average", f"{sum(kept) / len(kept):.0%}"), ("Kept at worst", f"{min(kept):.0%}")]
    cells = "".join(f'<div class="lct-fact">{tag("span", name)}{tag("b", value)}</div>' for name, value in facts)
    title = f'<h3 class="lct-done"><span>Merged:</span> {escape(result.outcome.out.name)}</h3>'
    return f'{title}<div class="lct-facts">{cells}</div>'


def _use(prompt: str) -> str:
    return (
        f'<p class="lct-use">{tag("span", "In a prompt:")} <code id="loraclr_prompt_text">{escape(prompt)}</code> '
        '<button type="button" class="lct-copy" data-copy="loraclr_prompt_text">Copy</button></p>'
    )


def _concepts(concepts: Sequence[ConceptOutcome]) -> str:
    if not any(concept.kept is not None for concept in concepts):
        return note(UNMEASURED)
    head = "".join(tag("th", name) for name in ("Concept", "Kept", "Nearest other", "Drift"))
    rows = "".join(map(_concept_row, concepts))
    low = any(concept.kept is not None and concept.kept < HALF for concept in concepts)
    return (
        f'<div class="lct-scroll"><table class="lct-table"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        f"</div>{tag('p', EXPLAIN, 'lct-soft')}{note(LOW, 'warning') if low else ''}"
    )


def _concept_row(concept: ConceptOutcome) -> str:
    if concept.kept is None:
        return f"<tr>{tag('td', concept.name)}<td>&ndash;</td><td>&ndash;</td><td>&ndash;</td></tr>"
    share = min(max(concept.kept, 0.0), 1.0)
    level, words = next(named[1:] for named in LEVELS if concept.kept >= named[0])
    bar = (
        f'<span class="lct-bar lct-{level}"><span style="width:{share:.0%}"></span></span>'
        f"<b>{concept.kept:.0%}</b> {tag('span', words, 'lct-soft')}"
    )
    drift = "&ndash;" if concept.drift is None else f"{concept.drift:.0%}"
    other = escape(concept.nearest_other or "") or "&ndash;"
    return f'<tr>{tag("td", concept.name)}<td class="lct-kept">{bar}</td><td>{other}</td><td>{drift}</td></tr>'


def _ways(report: Mapping[str, Any]) -> str:
    """This merge beside simpler ones from the same statistics."""
    variants: Sequence[Mapping[str, Any]] = report.get("variants") or ()
    if not variants:
        return ""
    names = [concept["name"] for concept in variants[0]["concepts"]]
    series = [(str(v["label"]), [concept["kept"] for concept in v["concepts"]]) for v in variants]
    chart = dot_plot("Kept per concept and way to merge", names, series)
    return _folded("Beside simpler ways to merge", chart, opened=True)


def _maps(report: Mapping[str, Any]) -> str:
    names = report["overlap"]["names"]
    parts: list[str] = []
    before = " before the distillation" if report["by_prediction"] else ""
    for field, name in (("kept_by_block", "Kept by part of the model"), ("kept_by_kind", "Kept by kind of layer")):
        title = name + before
        data = report[field]
        if data["groups"]:
            chart = heat_map(title, names, data["groups"], data["kept"], low=0, high=1)
            parts.append(_folded(title, chart, opened=field == "kept_by_block"))
    return "".join(parts)


def _folded(title: str, chart: str, *, opened: bool) -> str:
    state = " open" if opened else ""
    return f'<details class="lct-fold"{state}>{tag("summary", title)}<div class="lct-chart">{chart}</div></details>'


def warnings_html(warnings: Sequence[FileWarning]) -> str:
    """Each sentence once, however many layers or files it is about."""
    seen: dict[str, int] = {}
    for warning in warnings:
        seen[warning.message] = seen.get(warning.message, 0) + 1
    return "".join(note(text, "warning", f"{count} times" if count > 1 else "") for text, count in seen.items())
