"""What each part of the contrastive merge is worth: one option at a time, everything else as it is.

    python benchmarks/ablation.py              every value, three draws of eight characters; goes on after a stop
    python benchmarks/ablation.py --reduced    three values an option, one draw of four, four pictures a concept

Options of the solve are compared as solved, without the distillation that would make up for them;
`distill_steps_per_lora`, `distilled weight` (of the push, 0 is gradient fusion) and `distilled
text_encoder_slowdown_after` with it. Writes DIR/ablation.json after every unit: the rows of fidelity.json with
`parameter` and `value` (null: the default), and at the end one curve per parameter (PNG) and DIR/ablation.html.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import figures
from benchmarks.capture_inputs import INPUTS
from benchmarks.fidelity import open_study, parser_of, results_of, wanted, write_json
from benchmarks.study import SINGLE, Study, Unit, draw_concepts, run
from benchmarks.variants import MethodVariant
from lib_loraclr.core.methods import complete_options

VALUES: Mapping[str, tuple[Any, ...]] = {
    "margin": (0.5, 1.0, 1.2, 1.4, 1.5, 1.6, 1.8, 2.0),
    "weight": (0.0, 0.1, 0.3, 1.0, 3.0, 10.0),
    "against": ("nearest", "all"),
    "norm_penalty": (0.0, 0.001, 0.01, 0.1),
    "prior_preservation": (0.0, 0.05, 0.1, 0.2, 0.4, 1.0),
    "ridge": (1e-5, 1e-4, 1e-3, 1e-2),
    "weighting": ("equal", "relative"),
    "balance": (0, 3, 8),
    "rounds": (0, 1, 2, 3, 4, 5),
    "inputs": INPUTS,
    "sampling_steps": (3, 5, 10, 20),
    "prompts": (1, 2, 4, 8),
    "rank": ("exact", "4", "8", "16", "32", "energy=0.99", "energy=0.95"),
    "distill_steps_per_lora": (0, 25, 50, 100, 200),
    "distilled weight": (0.0, 1.0),
    "distilled text_encoder_slowdown_after": (0, 200, 400, 800),
}
REDUCED_VALUES = {name: values[:: max(1, len(values) // 2)] for name, values in VALUES.items()}
COUNT, REDUCED_COUNT = 8, 4
METHOD = "contrastive"  # it has all the options


def variant_of(parameter: str, value: Any) -> MethodVariant:
    """The contrastive merge with one thing changed; as it is where the value is its default."""
    if not parameter.startswith("distill") and value == default_of(parameter):
        return MethodVariant(METHOD)
    if parameter == "distill_steps_per_lora":
        return MethodVariant(METHOD, {parameter: value}, preset="distilled") if value else MethodVariant(METHOD)
    if parameter.startswith("distilled "):
        return MethodVariant(METHOD, {parameter.removeprefix("distilled "): value}, preset="distilled")
    if parameter in ("rank", "inputs"):
        return replace(MethodVariant(METHOD), **{parameter: value})
    return MethodVariant(METHOD, {parameter: value})


def default_of(parameter: str) -> Any:
    """What it has by default."""
    from lib_loraclr.merging.config import JOB_OPTIONS

    known = {option.name: option.default for option in JOB_OPTIONS} | complete_options(METHOD, {})
    return {"rank": "exact", "inputs": INPUTS[0], **known}[parameter.removeprefix("distilled ")]


def ablation_units(study: Study, count: int, values: Mapping[str, Sequence[Any]]) -> list[tuple[str, Any, Unit]]:
    """(parameter, value, unit); single LoRAs under the parameter "single"."""
    draws = [(draw, draw_concepts(study.testbed, count, draw)) for draw in range(study.scale.draws)]
    draws = [(draw, names) for draw, names in draws if names]
    found: list[tuple[str, Any, Unit]] = []
    for draw, names in draws:
        found += [("single", None, Unit(SINGLE, names, count, draw))]
        found += [("default", None, Unit(MethodVariant(METHOD), names, count, draw))]
        for parameter, chosen in values.items():
            for value in chosen:
                found.append((parameter, value, Unit(variant_of(parameter, value), names, count, draw)))
    return found


def varied(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the draws in which most was varied, without parameters that were not: all means are over the same concepts."""
    changed: dict[int, set[str]] = {}
    for row in rows:
        if row["value"] is not None and variant_of(row["parameter"], row["value"]) != MethodVariant(METHOD):
            changed.setdefault(row["draw"], set()).add(row["parameter"])
    most = max(map(len, changed.values()), default=0)
    draws = {draw: parameters for draw, parameters in changed.items() if len(parameters) == most}
    return [r for r in rows if r["draw"] in draws and (r["value"] is None or r["parameter"] in draws[r["draw"]])]


def ablation(
    study: Study, count: int, values: Mapping[str, Sequence[Any]], out: Path,
    asked: Callable[[str, Unit], bool] = lambda parameter, unit: True,
) -> None:  # fmt: skip
    """Everything that is asked for and not measured yet; results, of all that is known, after every unit."""
    units = ablation_units(study, count, values)

    def write() -> None:
        found = [(parameter, value, study.row(unit)) for parameter, value, unit in units]
        rows = [{"parameter": p, "value": v, **row} for p, v, row in found if row is not None]
        write_json(out / "ablation.json", varied(rows))

    run(study, [unit for parameter, _, unit in units if asked(parameter, unit)], None, write)
    write()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--parameters", nargs="+", choices=tuple(VALUES), help="only these")
    given = parser.parse_args(arguments)
    out, study, chosen = results_of(given), open_study(given), wanted(given)
    values = REDUCED_VALUES if given.reduced else VALUES
    names = ("single", "default", *(given.parameters or values))
    count = (given.counts or [REDUCED_COUNT if given.reduced else COUNT])[0]
    with study.testbed.host.ready():
        ablation(study, count, values, out, lambda parameter, unit: parameter in names and chosen(unit))
    study.progress.close()
    figures.write_ablation(out)
    print(f"wrote {out / 'ablation.json'} and {out / 'ablation.html'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
