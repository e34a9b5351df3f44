"""Figures and pages of the studies, made of their JSON alone.

python benchmarks/figures.py [--results DIR] [--pictures FOLDER]     (pip install -r requirements/bench.txt)
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from markupsafe import Markup
from PIL import Image, ImageDraw, ImageFont

from benchmarks.charts import Chart, Series, save
from benchmarks.labels import calibration_of, is_main, label
from lib_loraclr.evaluation.folder import EvaluationFolder
from lib_loraclr.evaluation.page import EXPLAINED, HEAD, Section, document, picture, sheet, table
from lib_loraclr.formats.output import write_text

ROOT = Path(__file__).resolve().parents[1]
MEASURES = {
    "identity_cosine": "identity: mean cosine to the references",
    "worst_identity_cosine": "identity of the worst concept: mean cosine",
    "identity_rate": "share of pictures recognised",
    "image": "image alignment: mean cosine",
    "text": "text alignment: share of scenes as asked for",
    "drift": "drift of neutral pictures, in units of another seed",
}
Rows = Sequence[Mapping[str, Any]]
GRID_SIDE, GRID_LEFT, GRID_TOP, GRID_GAP = 96, 92, 66, 4


def read_json(path: Path) -> Any:
    """A result, or an empty list where there is none yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def key_of(row: Mapping[str, Any]) -> str:
    """Names a variant, as the details do."""
    return json.dumps([row["method"], row["options"]], sort_keys=True)


def labels_of(rows: Rows) -> dict[str, str]:
    """MethodVariant -> its short name."""
    return {key_of(row): label(row["method"], row["options"]) for row in rows}


def mean_and_spread(values: Iterable[float | None]) -> tuple[float, float] | None:
    """Mean and standard deviation (0 of a single value) of the known ones."""
    known = [value for value in values if value is not None]
    return (statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else 0.0) if known else None


def grouped(rows: Rows) -> dict[str, dict[int, list[Mapping[str, Any]]]]:
    """MethodVariant -> N -> its rows, in the order of the file."""
    found: dict[str, dict[int, list[Mapping[str, Any]]]] = {}
    for row in rows:
        found.setdefault(key_of(row), {}).setdefault(row["n"], []).append(row)
    return found


def by_count(rows: Rows, labels: Mapping[str, str], measure: str, chosen: Sequence[str]) -> Chart:
    """One line per variant over N, bars of one standard deviation over draws; single LoRAs as the level."""
    variants = grouped(rows)
    counts = sorted({row["n"] for row in rows})
    series: list[Series] = []
    for key in chosen:
        if key not in variants or key == SINGLE:
            continue
        summary = [(n, mean_and_spread(row[measure] for row in variants[key].get(n, []))) for n in counts]
        known = [(n, found) for n, found in summary if found is not None]
        if known:
            points, spread = [(n, found[0]) for n, found in known], [found[1] for _, found in known]
            series.append(Series(labels.get(key, key), points, spread, strong=not series))
    single = mean_and_spread(row[measure] for n in variants.get(SINGLE, {}).values() for row in n)
    title = MEASURES[measure][:1].upper() + MEASURES[measure][1:]
    ticks = [(float(n), str(n)) for n in counts]
    level = ("single LoRAs", single[0]) if single is not None else None
    return Chart(title, "LoRAs merged into one", measure_unit(measure), series, ticks, level)


SINGLE = json.dumps(["single", {}])


def measure_unit(measure: str) -> str:
    """What stands beside the axis."""
    return {"text": "share", "identity_rate": "share", "drift": "share of another seed's change"}.get(
        measure, "cosine, 1 is the same"
    )


def main_keys(rows: Rows) -> list[str]:
    """Ways with a place in the figures, in the order of the rows."""
    return list(dict.fromkeys(key_of(row) for row in rows if is_main(row)))


def by_value(rows: Rows, parameter: str) -> Chart:
    """Identity, worst identity and drift over the values of one parameter."""
    mine = [row for row in rows if row["parameter"] == parameter]
    values = list(dict.fromkeys(row["value"] for row in mine))
    series = []
    for measure in ("identity_cosine", "worst_identity_cosine", "text", "drift"):
        found = [mean_and_spread(row[measure] for row in mine if row["value"] == value) for value in values]
        known = [(float(k), f) for k, f in enumerate(found) if f is not None]
        if known:
            label = {"identity_cosine": "identity", "worst_identity_cosine": "worst identity"}.get(measure, measure)
            series.append(
                Series(label, [(k, f[0]) for k, f in known], [f[1] for _, f in known], measure == "identity_cosine")
            )
    single = mean_and_spread(row["identity_cosine"] for row in rows if row["parameter"] == "single")
    ticks = [(float(k), f"{value:g}" if isinstance(value, float) else str(value)) for k, value in enumerate(values)]
    level = ("single LoRAs, identity", single[0]) if single is not None else None
    return Chart(f"The contrastive merge with another {parameter}", parameter, "cosine or share", series, ticks, level)


def summary_table(rows: Rows, labels: Mapping[str, str], n: int) -> Markup:
    """One line per variant at one N, mean over draws."""
    lines = []
    for key, by_n in grouped(rows).items():
        if n in by_n:
            found = [mean_and_spread(row[measure] for row in by_n[n]) for measure in FIELDS]
            lines.append((labels.get(key, key), *(None if f is None else f[0] for f in found)))
    return table(HEAD, lines)


FIELDS = ("text", "image", "identity_cosine", "identity_rate", "worst_identity_cosine", "drift")


def picture_grid(folder: EvaluationFolder, variants: Sequence[str]) -> Image.Image:
    """Rows: concepts; columns: reference, then the variants; the first picture of each. White ground."""
    chosen = [variant for name in variants for variant in folder.data["variants"] if variant["label"] == name]
    concepts = folder.data["concepts"]
    step = GRID_SIDE + GRID_GAP
    image = Image.new("RGB", (GRID_LEFT + step * (1 + len(chosen)), GRID_TOP + step * len(concepts)), "#ffffff")
    draw = ImageDraw.Draw(image)
    letters = ImageFont.load_default(12)
    for column, text in enumerate(("reference", *(variant["label"] for variant in chosen))):
        middle = GRID_LEFT + step * column + GRID_SIDE / 2
        draw.multiline_text(
            (middle, GRID_TOP - 6), _wrapped(text), "#1c2128", letters, anchor="md", align="center", spacing=2
        )
    for line, concept in enumerate(concepts):
        y = GRID_TOP + step * line
        draw.text((6, y + GRID_SIDE / 2), concept["trigger"] or concept["name"], "#1c2128", letters, anchor="lm")
        files = [*concept["references"][:1], *(variant["pictures"].get(concept["name"], [""])[0] for variant in chosen)]
        for column, file in enumerate(files):
            if file and (folder.path / file).is_file():
                with Image.open(folder.path / file) as picture:
                    small = picture.convert("RGB").resize((GRID_SIDE, GRID_SIDE), Image.Resampling.LANCZOS)
                image.paste(small, (GRID_LEFT + step * column, y))
    return image


def _wrapped(text: str, width: int = 14) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def write_fidelity(out: Path, folder: EvaluationFolder | None) -> None:
    """PNG figures and the page of the fidelity study."""
    rows, details = read_json(out / "fidelity.json"), read_json(out / "fidelity_details.json")
    if not rows:
        return
    labels, keys = labels_of(rows), main_keys(rows)
    sections = [_embedder_calibration(calibration_of(details))]
    for measure in MEASURES:
        if all(row[measure] is None for row in rows):
            continue
        chart = by_count(rows, labels, measure, keys)
        sections.append(_figure(chart.title, chart, out / f"fidelity-{measure}.png"))
    counts = sorted({row["n"] for row in rows})
    sections += [Section(f"{n} LoRAs", EXPLAINED, summary_table(rows, labels, n)) for n in counts]
    sections += _combinations(read_json(out / "combinations.json"), labels)
    if folder is not None:
        names = [labels[key] for key in keys]
        picture_grid(folder, ["single LoRAs", *(n for n in names if n != "single LoRAs")][:9]).save(
            out / "fidelity-pictures.png", optimize=True
        )
        sections.append(Section("Pictures", "The same prompts and seeds in every column.", sheet(folder, names)))
    settings = table(("setting", "value"), [(name, json.dumps(value)) for name, value in details["settings"].items()])
    sections.append(Section("Settings", "All that the numbers depend on.", settings))
    write_text(out / "fidelity.html", document("What merges keep", sections))


def _figure(title: str, chart: Chart, path: Path) -> Section:
    """The section of a chart, which is written as PNG too."""
    save(chart, path)
    return Section(title, "Bars: one standard deviation over draws.", picture(chart.title, path))


def _embedder_calibration(calibration: Mapping[str, Any]) -> Section:
    rows = [
        (f"{group.replace('_', ' ')}: {name.replace('_', ' ')}", value)
        for group, values in calibration.items()
        for name, value in values.items()
    ]
    text = (
        "The embedder's own errors on identities and styles that neither it nor any LoRA has seen: drawn references "
        "against pictures that went through the autoencoder, as generated ones do. Parameters: rank correlation of "
        "cosine and number of equal drawing parameters."
    )
    return Section("The measuring stick", text, table(("number", "value"), rows))


def _combinations(rows: Rows, labels: Mapping[str, str]) -> list[Section]:
    if not rows:
        return []
    lines = []
    for name in dict.fromkeys(row["combination"] for row in rows):
        for key in dict.fromkeys(key_of(row) for row in rows):
            mine = [row for row in rows if row["combination"] == name and key_of(row) == key]
            found = [mean_and_spread(row[field] for row in mine) for field in FIELDS]
            lines.append((name, labels.get(key, key), *(None if f is None else f[0] for f in found)))
    text = "Pairs of kinds. For a style the identity is the style's; style + character is drawn in the style."
    return [Section("Combinations", text, table(("combination", *HEAD), lines))]


def write_ablation(out: Path) -> None:
    """PNG curves and the page of the ablation."""
    rows = read_json(out / "ablation.json")
    sections: list[Section] = []
    for parameter in dict.fromkeys(row["parameter"] for row in rows):
        if parameter in ("single", "default"):
            continue
        chart = by_value(rows, parameter)
        sections.append(_figure(parameter.replace("_", " "), chart, out / f"ablation-{parameter}.png"))
    lines = [(row["parameter"], str(row["value"]), row["n"], row["draw"], *(row[f] for f in FIELDS)) for row in rows]
    head = ("parameter", "value", "N", "draw", *HEAD[1:])
    sections.append(Section("All rows", EXPLAINED, table(head, lines)))
    write_text(out / "ablation.html", document("What each part of the contrastive merge is worth", sections))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--pictures", type=Path, help="the folder of kept pictures, for grid and page")
    given = parser.parse_args(arguments)
    write_fidelity(given.results, EvaluationFolder.open(given.pictures) if given.pictures else None)
    if (given.results / "ablation.json").is_file():
        write_ablation(given.results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
