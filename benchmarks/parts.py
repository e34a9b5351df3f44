"""Which part of a merge loses what: single LoRAs with one part of their layers replaced by the merged counterpart.

    python benchmarks/parts.py [--counts 8] [--pictures 16] [--methods gradient-fusion]

A concept's pictures are painted with its own LoRA, in which only the keys (values, text encoder, ...) are those of the
merged file: as solved layer by layer, and distilled. Writes benchmarks/results/parts.json: rows `{method, options, n,
part, identity_cosine, worst_identity_cosine}`; part "none" is the single LoRA, "all" the merge.
"""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.fidelity import open_study, parser_of, results_of, write_json
from benchmarks.labels import label
from benchmarks.study import Study, Unit, draw_concepts
from benchmarks.variants import MethodVariant
from lib_loraclr.core.deltas import Delta
from lib_loraclr.evaluation.scores import rounded, score
from lib_loraclr.model import Phase

PARTS = {
    "none": r"(?!)",
    "text encoder": r"^text_encoder",
    "queries": r"^unet.*attn\d\.to_q$",
    "keys": r"^unet.*attn\d\.to_k$",
    "values": r"^unet.*attn\d\.to_v$",
    "output projections": r"^unet.*attn\d\.to_out",
    "all": r"",
}
COUNT, PICTURES = 8, 16


def hybrid(own: Mapping[str, Delta], merged: Mapping[str, Delta], pattern: str) -> dict[str, Delta]:
    """A concept's own update with the layers that the pattern names taken from the merge."""
    kept = {name: delta for name, delta in own.items() if not re.search(pattern, name)}
    return {**kept, **{name: delta for name, delta in merged.items() if re.search(pattern, name)}}


def measure(study: Study, unit: Unit, merged: Mapping[str, Delta], pattern: str) -> list[float]:
    """Mean identity cosine of every concept, on the prompts and seeds of the study."""
    testbed, sampling, identities = study.testbed, study.testbed.set.sampling, list[float]()
    steps = testbed.generator.steps(study.scale.pictures, sampling)
    study.progress.phase(Phase.GENERATE, len(unit.names) * steps, unit.variant.label)
    for concept in testbed.concepts(unit.names):
        texts, update = study.prompts(concept.name, unit), hybrid(concept.deltas, merged, pattern)
        seeds = study.seeds(concept.name)
        pictures = testbed.generator.sample(update, texts, seeds, sampling, progress=study.progress).numpy()
        painted = score(concept.name, pictures, texts, testbed.references[concept.name], testbed.metrics, [])
        identities.append(statistics.fmean(painted.identity))
    return identities


def parts(study: Study, variants: Sequence[MethodVariant], count: int, out: Path) -> list[dict[str, Any]]:
    """Rows of every variant and part, written after each."""
    names, rows = draw_concepts(study.testbed, count, 0), list[dict[str, Any]]()
    touched = {name for concept in study.testbed.concepts(names) for name in concept.deltas}
    for variant in variants:
        unit = Unit(variant, names, count, 0)
        merged = study.maker.update(variant, names, study.key(unit))
        for part, pattern in PARTS.items():
            if part not in ("none", "all") and not any(re.search(pattern, name) for name in touched):
                continue
            cosines = measure(study, unit, merged, pattern)
            mean, worst = rounded(statistics.fmean(cosines)), rounded(min(cosines))
            row = {"method": variant.method, "options": variant.shown, "n": count, "part": part}
            rows.append({**row, "identity_cosine": mean, "worst_identity_cosine": worst})
            write_json(out / "parts.json", rows)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.set_defaults(counts=[COUNT], pictures=PICTURES, methods=["gradient-fusion"])
    given = parser.parse_args(arguments)
    study = open_study(given)
    variants = [
        MethodVariant(method, preset=preset) for method in given.methods for preset in ("layerwise", "distilled")
    ]
    with study.testbed.host.ready():
        rows = parts(study, variants, given.counts[0], results_of(given))
    study.progress.close()
    for row in rows:
        variant, found = label(row["method"], row["options"]), row["identity_cosine"]
        print(f"{variant:<40} {row['part']:<20} {found:.3f}  worst {row['worst_identity_cosine']:.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
