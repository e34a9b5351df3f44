"""What merges keep: every method, N = 1 to 12 concepts, several draws of them, in pictures of the miniature.

    python benchmarks/fidelity.py              the whole study: hours on a CPU, goes on where it was stopped
    python benchmarks/fidelity.py --reduced    the main methods, N = 2 and 4, four pictures a concept: minutes

Writes after every unit of work: DIR/units.jsonl, every concept's numbers, from which a later study goes on;
DIR/fidelity.json, a list of rows {method, options, n, draw, text, image, identity_cosine, identity_rate,
worst_identity_cosine, drift}; DIR/combinations.json, the same with `combination`, for style + character pairs, objects,
character + animal; DIR/fidelity_details.json, settings and the embedder's own errors; at the end figures (PNG)
and DIR/fidelity.html. DIR is benchmarks/results for the whole study and outputs/study-reduced for the reduced one.
`--counts`, `--draws`, `--methods`, `--only` say what is measured now; the results hold everything that has been.
Without DIR/units.jsonl all of it is measured anew. Same seeds, same machine, same JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import figures
from benchmarks.orthogonal import Trainer
from benchmarks.study import FULL, REDUCED, SINGLE, Study, Unit, picture_folder, planned, run
from benchmarks.testbed import Testbed, open_testbed
from benchmarks.units import Units
from benchmarks.variants import Maker, MethodVariant, study_variants
from lib_loraclr.core.methods import complete_options
from lib_loraclr.evaluation.folder import EvaluationFolder
from lib_loraclr.formats.output import write_text
from lib_loraclr.frontends.cli.terminal import BarProgress
from lib_loraclr.merging.options import DEFAULT_METHOD

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("main", "combinations", "variants")
LOOKED_AT = 8  # concepts whose pictures, of main variants, are kept for grid, page and rating


def combinations(testbed: Testbed) -> list[tuple[str, tuple[str, ...], bool]]:
    """(name, concepts, joint prompts): what LoRACLR's Figures 6 and 7 show."""
    people, animals = testbed.names("character"), testbed.names("animal")
    things, looks = testbed.names("object"), testbed.names("style")
    found = [("style + character", (person, look), True) for look, person in zip(looks, people, strict=False)]
    found += [("character + animal", (person, animal), False) for person, animal in zip(people, animals, strict=False)]
    if len(things) > 1:
        found.append(("objects", tuple(things), False))
    if things and animals and people:
        found.append(("character + animal + object", (people[0], animals[0], things[0]), False))
    return found


def combination_units(study: Study, variants: Sequence[MethodVariant]) -> list[tuple[str, Unit]]:
    """Units of the combinations; a short study has one of each pair with a character, for the first four variants."""
    chosen = [variant for variant in variants if variant.main and variant.method != "orthogonal-adaptation"]
    short = study.scale.main_only
    units: list[tuple[str, Unit]] = []
    drawn: dict[str, int] = {}
    for name, names, joint in combinations(study.testbed):
        draw = drawn[name] = drawn.get(name, -1) + 1
        if not short or (draw == 0 and name.endswith(("+ character", "+ animal"))):
            units += [
                (name, Unit(variant, names, len(names), draw, joint)) for variant in chosen[: 4 if short else None]
            ]
    return units


def compared(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without single LoRAs of draws that no merge was measured on: means are over the same concepts."""
    merged = {(row["n"], row["draw"]) for row in rows if row["method"] != SINGLE.method}
    return [row for row in rows if (row["n"], row["draw"]) in merged]


def details(study: Study) -> dict[str, Any]:
    """What the rows depend on, and how well the embedder measures."""
    settings = {**study.settings, "default": complete_options(DEFAULT_METHOD, {})}
    return {"settings": settings, "embedder_calibration": study.testbed.embedder_calibration}


def parser_of(description: str) -> argparse.ArgumentParser:
    """The arguments that the studies share."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--reduced", action="store_true", help="a small study in minutes")
    parser.add_argument("--miniature", type=Path, default=ROOT / "miniature", help="folder with concepts.json")
    parser.add_argument("--work", type=Path, default=ROOT / "outputs" / "study", help="statistics, updates, pictures")
    parser.add_argument("--out", type=Path, help="where the results go")
    parser.add_argument("--counts", type=int, nargs="+", help="numbers of concepts")
    parser.add_argument("--draws", type=int, nargs="+", help="which draws of them, from 0")
    parser.add_argument("--pictures", type=int, help="pictures per concept")
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser


def open_study(given: argparse.Namespace) -> Study:
    """The study of these arguments, with the model loaded."""
    torch.set_num_threads(given.threads)
    scale = REDUCED if given.reduced else FULL
    scale = replace(scale, pictures=given.pictures or scale.pictures)
    testbed = open_testbed(given.miniature, held_out=scale.held_out, device=given.device)
    progress = BarProgress()
    trainer = None
    if not given.reduced:
        checkpoint = testbed.set.checkpoint or given.miniature / "miniature.safetensors"
        trainer = Trainer(checkpoint, given.work / "orthogonal", device=given.device)
    maker = Maker(testbed, given.work, progress, trainer)
    return Study(testbed, given.work, Units(results_of(given) / "units.jsonl"), scale, progress, maker)


def results_of(given: argparse.Namespace) -> Path:
    """Where the results go."""
    return given.out or (ROOT / "outputs" / "study-reduced" if given.reduced else ROOT / "benchmarks" / "results")


def wanted(given: argparse.Namespace) -> Callable[[Unit], bool]:
    """Whether the arguments ask for a unit."""

    def asked(unit: Unit) -> bool:
        counts, draws, methods = given.counts, given.draws, given.methods
        by_count = not counts or unit.n in counts
        by_method = not methods or unit.variant.method in (*methods, SINGLE.method)
        return by_count and by_method and (draws is None or unit.draw in draws)

    return asked


def write_json(path: Path, data: Any) -> None:
    """In one step, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def fidelity(
    study: Study, variants: Sequence[MethodVariant], out: Path, asked: Callable[[Unit], bool] = lambda unit: True,
    parts: Sequence[str] = PARTS,
) -> EvaluationFolder | None:  # fmt: skip
    """Everything that is asked for and not measured yet; results, of all that is known, after every unit."""
    units = planned(study, variants)
    pairs = combination_units(study, variants)

    def write() -> None:
        write_json(out / "fidelity.json", compared(study.rows(units)))
        mixed = [(name, study.row(unit)) for name, unit in pairs]
        write_json(out / "combinations.json", [{"combination": n, **row} for n, row in mixed if row is not None])
        write_json(out / "fidelity_details.json", details(study))

    largest = [unit for unit in units if unit.draw == 0 and unit.n <= LOOKED_AT]
    looked_at = max(largest, key=lambda unit: unit.n).names if largest else ()
    keep = picture_folder(study, looked_at) if looked_at else None
    chosen = {
        "main": [unit for unit in units if unit.variant.main],
        "combinations": [unit for _, unit in pairs],
        "variants": [unit for unit in units if not unit.variant.main],
    }
    for part in parts:
        run(study, filter(asked, chosen[part]), keep if part == "main" else None, write)
    write()
    return keep


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="a part of the study")
    given = parser.parse_args(arguments)
    out, study = results_of(given), open_study(given)
    variants = [variant for variant in study_variants() if variant.main or not study.scale.main_only]
    with study.testbed.host.ready():
        folder = fidelity(study, variants, out, wanted(given), given.only)
    study.progress.close()
    figures.write_fidelity(out, folder)
    print(f"wrote {out / 'fidelity.json'} and {out / 'fidelity.html'}")
    if folder is not None:
        print(f"pictures to rate: python -m lib_loraclr.frontends.rating {folder.path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
