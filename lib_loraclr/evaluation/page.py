"""The page of an evaluation: one HTML file without scripts and without a network, pictures inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from lib_loraclr.charts import heat_map
from lib_loraclr.evaluation.folder import EvaluationFolder
from lib_loraclr.html import data_address, fragment, picture_address, render

if TYPE_CHECKING:
    from markupsafe import Markup

THUMBNAIL = 128
SHOWN = 2  # pictures of a concept and variant
HEAD = ("method", "text", "image", "identity", "rate", "worst identity", "drift")
FIELDS = ("text", "image", "identity_cosine", "identity_rate", "worst_identity_cosine", "drift")
EXPLAINED = (
    "Means over all pictures. Text: the picture shows what the prompt says. Image: likeness to the reference pictures. "
    "Identity: cosine to the references, 1 is the same, 0 a stranger; rate: the share of pictures above the threshold "
    "at which held-out identities are told apart best; worst: the concept that fares worst. Drift: how far pictures of "
    "neutral prompts moved, in units of what another seed changes; 0 is not at all."
)


class Section(NamedTuple):
    """A heading, a sentence, and what it is about: a table, a chart, pictures."""

    title: str
    text: str
    content: Markup


def document(title: str, sections: Sequence[Section], about: str = "") -> Markup:
    """A self-contained page in the style of the merge report."""
    return render("evaluation.html", title=title, about=about, sections=sections)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Markup:
    """Numbers to the right with three digits; None is a dash."""
    return fragment("parts.html", "table", head, rows)


def picture(title: str, path: Path) -> Markup:
    """A PNG file inside the page."""
    return fragment("parts.html", "image", title, data_address(path.read_bytes(), "png"))


def render_page(folder: EvaluationFolder) -> str:
    """The page of an evaluation folder."""
    data = folder.data
    labels = {variant["name"]: variant["label"] for variant in data["variants"]}
    rows = [(labels.get(row["method"], row["method"]), *(row[field] for field in FIELDS)) for row in data["rows"]]
    settings: Mapping[str, Any] = data.get("settings", {})
    about = (
        f"{len(data['concepts'])} concepts on {settings.get('checkpoint', 'a model')}, {settings.get('pictures', '?')} "
        f"pictures each, seeds from {settings.get('seed', '?')}"
    )
    sections = [
        Section("What is kept", EXPLAINED, table(HEAD, rows)),
        *_by_concept(data, labels),
        Section("Pictures", "The same prompts and seeds in every column.", sheet(folder)),
    ]
    if "calibration" in data:
        numbers = [(name.replace("_", " "), value) for name, value in data["calibration"].items()]
        text = "How well the identity embedder tells held-out identities apart."
        sections.append(Section("The measuring stick", text, table(("number", "value"), numbers)))
    return document("Evaluation", sections, about)


def _by_concept(data: Mapping[str, Any], labels: Mapping[str, str]) -> list[Section]:
    """One section, or none where identity was not measured."""
    scores: Mapping[str, Any] = data.get("scores", {})
    names = [concept["name"] for concept in data["concepts"]]
    variants = [name for name in labels if name in scores]
    values = [[scores[variant][k]["identity_cosine"] for variant in variants] for k in range(len(names))]
    if not variants or all(value is None for row in values for value in row):
        return []
    chart = heat_map(
        "Identity by concept and method", names, [labels[variant] for variant in variants], values, low=0, high=1
    )
    return [Section("Identity by concept", "Mean cosine to the concept's reference pictures.", chart)]


def sheet(folder: EvaluationFolder, variants: Sequence[str] = (), shown: int = SHOWN) -> Markup:
    """Rows: concepts; columns: reference, then every variant (or those named)."""
    chosen = [variant for variant in folder.data["variants"] if not variants or variant["name"] in variants]
    rows = [
        (
            concept["name"],
            [
                _pictures(folder.path, files[:shown])
                for files in (
                    concept["references"],
                    *(variant["pictures"].get(concept["name"], []) for variant in chosen),
                )
            ],
        )
        for concept in folder.data["concepts"]
    ]
    return fragment("parts.html", "sheet", [variant["label"] for variant in chosen], rows, THUMBNAIL)


def _pictures(root: Path, files: Sequence[str]) -> list[tuple[str, str]]:
    """(alternative text, address) of a small copy of every file that is there."""
    pictures: list[tuple[str, str]] = []
    for path in (root / file for file in files):
        if path.is_file():
            with Image.open(path) as image:
                small = image.convert("RGB")
            small.thumbnail((2 * THUMBNAIL, 2 * THUMBNAIL))
            pictures.append((path.stem, picture_address(small)))
    return pictures
