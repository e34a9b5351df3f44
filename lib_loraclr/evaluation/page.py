"""The page of an evaluation: one HTML file without scripts and without a network, pictures inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from lib_loraclr.evaluation.curves import STYLE as CURVE_STYLE
from lib_loraclr.evaluation.folder import EvaluationFolder
from lib_loraclr.merging.report.charts import heat_map
from lib_loraclr.merging.report.html import STYLE

THUMBNAIL = 128
SHOWN = 2  # pictures of a concept and way
HEAD = ("method", "text", "image", "identity", "rate", "worst identity", "drift")
FIELDS = ("text", "image", "identity_cosine", "identity_rate", "worst_identity_cosine", "drift")
EXPLAINED = (
    "Means over all pictures. Text: the picture shows what the prompt says. Image: likeness to the reference pictures. "
    "Identity: cosine to the references, 1 is the same, 0 a stranger; rate: the share of pictures above the threshold "
    "at which held-out identities are told apart best; worst: the concept that fares worst. Drift: how far pictures of "
    "neutral prompts moved, in units of what another seed changes; 0 is not at all."
)
GRID = (
    "main{max-width:none}.sheet{display:grid;gap:.35rem;align-items:start}.sheet b{font-weight:600;font-size:.8rem;"
    "color:var(--soft);overflow-wrap:anywhere}.sheet img{width:100%;display:block;border-radius:4px;margin-bottom:3px}"
    ".sheet span{font-size:.8rem;align-self:center}"
)


def document(title: str, body: Sequence[str], extra_style: str = "") -> str:
    """A self-contained page in the style of the merge report."""
    policy = "default-src 'none';style-src 'unsafe-inline';img-src data:"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{escape(title)}</title><style>{STYLE}{CURVE_STYLE}{GRID}{extra_style}</style></head>"
        f"<body>{''.join(body)}</body></html>\n"
    )


def html_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Numbers to the right with three digits; None is a dash."""
    numeric = [all(isinstance(row[k], int | float | None) for row in rows) for k in range(len(head))]
    mark = [' class="n"' if number else "" for number in numeric]
    top = "".join(f"<th{mark[k]}>{escape(name)}</th>" for k, name in enumerate(head))
    lines = ["".join(f"<td{mark[k]}>{_cell(value)}</td>" for k, value in enumerate(row)) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "&ndash;"
    return f"{value:.3f}" if isinstance(value, float) else escape(str(value))


def section(title: str, text: str, content: str) -> str:
    """A heading, a sentence, and what it is about."""
    return f'<h2>{escape(title)}</h2><p>{escape(text)}</p><div class="scroll">{content}</div>'


def render_page(folder: EvaluationFolder) -> str:
    """The page of an evaluation folder."""
    data = folder.data
    labels = {way["name"]: way["label"] for way in data["ways"]}
    rows = [(labels.get(row["method"], row["method"]), *(row[field] for field in FIELDS)) for row in data["rows"]]
    settings: Mapping[str, Any] = data.get("settings", {})
    about = (
        f"{len(data['concepts'])} concepts on {settings.get('checkpoint', 'a model')}, {settings.get('pictures', '?')} "
        f"pictures each, seeds from {settings.get('seed', '?')}"
    )
    body = [
        "<h1>Evaluation</h1>",
        f'<p class="soft">{escape(about)}</p>',
        section("What is kept", EXPLAINED, html_table(HEAD, rows)),
        _by_concept(data, labels),
        section("Pictures", "The same prompts and seeds in every column.", sheet(folder)),
    ]
    if "calibration" in data:
        found = [(name.replace("_", " "), value) for name, value in data["calibration"].items()]
        text = "How well the identity embedder tells held-out identities apart."
        body.append(section("The measuring stick", text, html_table(("number", "value"), found)))
    return document("Evaluation", body)


def _by_concept(data: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    scores: Mapping[str, Any] = data.get("scores", {})
    names = [concept["name"] for concept in data["concepts"]]
    ways = [name for name in labels if name in scores]
    table = [[scores[way][k]["identity_cosine"] for way in ways] for k in range(len(names))]
    if not ways or all(value is None for row in table for value in row):
        return ""
    chart = heat_map("Identity by concept and method", names, [labels[way] for way in ways], table, low=0, high=1)
    return section("Identity by concept", "Mean cosine to the concept's reference pictures.", chart)


def sheet(folder: EvaluationFolder, ways: Sequence[str] = (), shown: int = SHOWN) -> str:
    """Rows: concepts; columns: reference, then every way (or those named)."""
    chosen = [way for way in folder.data["ways"] if not ways or way["name"] in ways]
    parts = ["<b>concept</b>", "<b>reference</b>", *(f"<b>{escape(way['label'])}</b>" for way in chosen)]
    for concept in folder.data["concepts"]:
        parts.append(f"<span>{escape(concept['name'])}</span>")
        parts.append(f"<div>{''.join(_image(folder.path, file) for file in concept['references'][:shown])}</div>")
        for way in chosen:
            files = way["pictures"].get(concept["name"], [])[:shown]
            parts.append(f"<div>{''.join(_image(folder.path, file) for file in files)}</div>")
    width = f"5.5rem repeat({len(chosen) + 1},minmax(4.5rem,{THUMBNAIL}px))"
    return f'<div class="sheet" style="grid-template-columns:{width}">{"".join(parts)}</div>'


def _image(root: Path, file: str) -> str:
    path = root / file
    if not path.is_file():
        return ""
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((2 * THUMBNAIL, 2 * THUMBNAIL))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=88)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return f'<img alt="{escape(path.stem)}" src="data:image/jpeg;base64,{data}">'
