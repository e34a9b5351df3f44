"""The study on a toy testbed: rows as named, resumed, repeatable; draws; the page and the figures it writes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_loras import Recorder

from benchmarks import figures
from benchmarks.ablation import VALUES, ablation, default_of, variant_of, varied
from benchmarks.capture_inputs import INPUTS
from benchmarks.fidelity import combinations, compared, fidelity, parser_of, wanted
from benchmarks.parts import PARTS, hybrid, parts
from benchmarks.study import SINGLE, Scale, Study, Unit, draw_concepts, planned
from benchmarks.testbed import Testbed
from benchmarks.units import Units
from benchmarks.variants import Maker, MethodVariant, first_names, is_default, study_variants
from lib_loraclr.core.deltas import stack
from lib_loraclr.core.methods import METHODS, complete_options
from lib_loraclr.evaluation.folder import EvaluationFolder
from lib_loraclr.merging.options import DEFAULT_METHOD, DEFAULT_PRESET
from lib_loraclr.model import Phase

FIELDS = ["method", "options", "n", "draw", "text", "image", "identity_cosine", "identity_rate",
          "worst_identity_cosine", "drift"]  # fmt: skip
QUICK = {"sampling_steps": 1, "prompts": 1, "neutral_prompts": 1, "held_out_prompts": 0, "rounds": 1}
SCALE = Scale(counts=(1, 2), draws=1, pictures=2, neutral=1, held_out=4, kept=1)
VARIANTS = [
    MethodVariant("contrastive", QUICK),
    MethodVariant("sum"),
    MethodVariant("contrastive", {**QUICK, "margin": 1.5}, main=False),
]


class Silent(Recorder):
    """A recorder that remembers the units that were begun."""

    def message(self, text: str) -> None:
        self.reached.append(text)


def study_in(testbed: Testbed, work: Path, **changes: object) -> Study:
    progress = Silent()
    return Study(
        testbed, work, Units(work / "units.jsonl"), replace(SCALE, **changes), progress, Maker(testbed, work, progress)
    )


@pytest.fixture(scope="module")
def done(toy: Testbed, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path, EvaluationFolder]:
    """One small study with its results."""
    work, out = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("results")
    study = study_in(toy, work)
    with toy.host.ready():
        folder = fidelity(study, VARIANTS, out)
    return study, out, folder


def test_rows_are_as_named(done: tuple[Study, Path, EvaluationFolder]) -> None:
    rows = json.loads((done[1] / "fidelity.json").read_text())
    assert isinstance(rows, list)
    assert all(list(row) == FIELDS for row in rows)
    assert [(row["method"], row["n"]) for row in rows] == [
        ("single", 1), ("single", 2), ("contrastive", 1), ("sum", 1), ("contrastive", 2), ("sum", 2),
        ("contrastive", 1), ("contrastive", 2),
    ]  # fmt: skip
    by = {(row["method"], row["n"], row["options"].get("margin")): row for row in rows}
    # one LoRA summed is that LoRA, up to the file's half precision
    one, alone = by["sum", 1, None], by["single", 1, None]
    assert one["identity_cosine"] == pytest.approx(alone["identity_cosine"], abs=0.02)
    assert one["drift"] == pytest.approx(alone["drift"], rel=0.05)
    mixed = json.loads((done[1] / "combinations.json").read_text())
    assert {row["combination"] for row in mixed} == {
        "style + character", "character + animal", "objects", "character + animal + object",
    }  # fmt: skip


def test_a_summed_unit_is_the_stack_painted_and_scored(done: tuple[Study, Path, EvaluationFolder]) -> None:
    """The row again from scratch: own pictures, own cosines."""
    study, out, _ = done
    testbed = study.testbed
    row = next(
        row for row in json.loads((out / "fidelity.json").read_text()) if (row["method"], row["n"]) == ("sum", 2)
    )
    unit = Unit(MethodVariant("sum"), ("zor", "kib"), 2, 0)
    found = []
    with testbed.host.ready():
        update = stack([concept.deltas for concept in testbed.concepts(unit.names)])
        for name in unit.names:
            prompts, seeds = study.prompts(name, unit), study.seeds(name)
            pictures = testbed.generator.sample(update, prompts, seeds, testbed.set.sampling).numpy()
            vectors = testbed.metrics.identity.vectors(pictures)
            found.append(float((vectors @ testbed.references[name].identity.T).mean()))
    assert row["identity_cosine"] == pytest.approx(np.mean(found), abs=0.01)
    assert row["worst_identity_cosine"] == pytest.approx(min(found), abs=0.01)


def test_it_resumes_and_repeats(done: tuple[Study, Path, EvaluationFolder], tmp_path: Path, toy: Testbed) -> None:
    study, out, _ = done
    again = study_in(toy, study.work)
    lost = again.key(Unit(VARIANTS[1], ("zor", "kib"), 2, 0))
    lines = study.units.path.read_text().splitlines(keepends=True)
    again.units = Units(tmp_path / "units.jsonl")
    again.units.path.write_text("".join(line for line in lines if lost not in line))
    with toy.host.ready():
        fidelity(again, VARIANTS, tmp_path)
    assert again.units.path.read_text().splitlines()[-1].startswith(f'{{"key": "{lost}"')
    assert len(again.units.path.read_text().splitlines()) == len(lines)
    for name in ("fidelity.json", "combinations.json", "fidelity_details.json"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()
    painted = [name for name, _ in again.progress.phases if name.startswith(Phase.GENERATE.value)]
    assert painted == ["Generating pictures: stacked sum, 2"]


def test_single_loras_are_of_the_draws_that_were_merged() -> None:
    rows = [{"method": m, "n": n, "draw": d} for m, n, d in (("single", 2, 0), ("sum", 2, 0), ("single", 2, 1))]
    assert compared(rows) == rows[:2]
    rows = [{"parameter": p, "value": v, "draw": d} for p, v, d in (
        ("single", None, 0), ("margin", 1.5, 0), ("margin", 2.0, 0), ("prior_preservation", 0.1, 0),
        ("single", None, 1), ("margin", 1.5, 1),
    )]  # fmt: skip
    assert varied(rows) == rows[:3], "1.5 and 0.1 are the defaults"
    later = [{**rows[2], "draw": 1}, {**rows[3], "value": 0.2}]
    assert varied([*rows, *later]) == [*rows[:4], later[1]], "two parameters in draw 0, one in draw 1"


def test_a_part_of_the_study_keeps_the_rows_of_the_others(
    done: tuple[Study, Path, EvaluationFolder], tmp_path: Path, toy: Testbed
) -> None:
    study, out, _ = done
    again, given = study_in(toy, study.work), parser_of("x").parse_args(["--counts", "2", "--methods", "sum"])
    asked: list[Unit] = []

    def remembered(unit: Unit) -> bool:
        asked.extend([unit] if wanted(given)(unit) else [])
        return False

    with toy.host.ready():
        fidelity(again, VARIANTS, tmp_path, remembered, ["main"])
    assert {(unit.variant.method, unit.n) for unit in asked} == {("single", 2), ("sum", 2)}
    assert (tmp_path / "fidelity.json").read_bytes() == (out / "fidelity.json").read_bytes()


def test_units_of_several_studies_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "results" / "units.jsonl"
    one, other = Units(path), Units(path)
    assert one.find("a") is None
    one.put("a", {"drift": 0.5})
    other.put("b", {"drift": None})
    assert (one.find("b"), other.find("a")) == ({"drift": None}, {"drift": 0.5})
    other.put("a", {"drift": 0.25})
    assert Units(path).find("a") == {"drift": 0.25}, "the last one counts"
    with path.open("a") as file:
        file.write('{"key": "c", "drift"')  # the machine stopped here
    assert Units(path).find("c") is None
    other.put("d", {"drift": 1.0})
    again = Units(path)
    assert [again.find(key) for key in "bcd"] == [{"drift": None}, None, {"drift": 1.0}]


def test_units_are_named_by_what_they_depend_on(toy: Testbed, tmp_path: Path) -> None:
    study = study_in(toy, tmp_path)
    unit = Unit(MethodVariant("contrastive"), ("zor", "kib"), 2, 0)
    same = study.key(replace(unit, draw=3))
    margin = complete_options("contrastive", {})["margin"]
    assert study.key(unit) == same == study.key(replace(unit, variant=MethodVariant("contrastive", {"margin": margin})))
    others = [
        study.key(replace(unit, variant=MethodVariant("contrastive", {"margin": 2.0}))),
        study.key(replace(unit, joint=True)),
        study.key(replace(unit, names=("zor", "vex"))),
        study.key(replace(unit, variant=MethodVariant("contrastive", rank="4"))),
        study.key(replace(unit, variant=MethodVariant("contrastive", inputs="student"))),
        study_in(toy, tmp_path, pictures=3).key(unit), study_in(toy, tmp_path, neutral=2).key(unit),
    ]  # fmt: skip
    assert len({same, *others}) == len(others) + 1


def test_draws(toy: Testbed) -> None:
    assert draw_concepts(toy, 2, 0) == ("zor", "kib")
    assert set(draw_concepts(toy, 3, 1)) <= {"zor", "kib", "vex", "pim", "dob", "lum"}, "styles are no identities"
    assert draw_concepts(toy, 2, 1) == draw_concepts(toy, 2, 1)
    assert len({draw_concepts(toy, 2, k) for k in range(8)}) > 1
    assert set(draw_concepts(toy, 2, 5)) <= {"zor", "kib", "vex"}
    assert draw_concepts(toy, 7, 0) == ()


def test_combinations_ask_for_both(toy: Testbed, tmp_path: Path) -> None:
    found = {name: (names, joint) for name, names, joint in combinations(toy)}
    assert found["style + character"] == (("zor", "noir"), True)
    assert found["objects"] == (("dob", "lum"), False)
    unit = Unit(MethodVariant("sum"), ("zor", "noir"), 2, 0, joint=True)
    study = study_in(toy, tmp_path)
    assert study.prompts("noir", unit)[0] == "a photo of zor man in a forest in noir style"
    assert study.prompts("zor", replace(unit, joint=False))[0] == "a photo of zor man in a forest"


def test_all_methods_are_compared_once() -> None:
    variants = study_variants()
    names = {variant.method for variant in variants}
    assert set(METHODS) <= names
    assert {"loraclr", "gradient-fusion-lbfgs", "orthogonal-adaptation"} <= names
    assert variants[0] == MethodVariant(DEFAULT_METHOD, preset=DEFAULT_PRESET)
    assert len({variant.label for variant in variants}) == len(variants)
    switched = [variant for variant in variants if {"prior_preservation", "rounds", "balance"} <= set(variant.options)]
    # two methods, eight combinations each; those that are a method's default are there already
    defaults = [variant for variant in switched if is_default(variant.method, variant.options)]
    assert not defaults
    assert 14 <= len(switched) <= 16


def test_an_unfinished_study_is_a_shorter_one(toy: Testbed, tmp_path: Path) -> None:
    study = study_in(toy, tmp_path, draws=2)
    units = planned(study, VARIANTS)
    main = [unit.variant.main for unit in units]
    assert main == sorted(main, reverse=True), "main variants first"
    draws = [unit.draw for unit in units if unit.variant.main and unit.variant != SINGLE]
    assert draws == sorted(draws), "a whole draw before the next"


def test_the_page_and_the_figures(done: tuple[Study, Path, EvaluationFolder]) -> None:
    pytest.importorskip("matplotlib")
    _, out, folder = done
    figures.write_fidelity(out, folder)
    page = (out / "fidelity.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    assert "default-src 'none'" in page
    for text in ("single LoRAs", "stacked sum", "The measuring stick", "rank correlation", "Combinations"):
        assert text in page
    for measure in ("identity_cosine", "worst_identity_cosine", "drift", "text"):
        with Image.open(out / f"fidelity-{measure}.png") as image:
            assert image.size == (1720, 920)
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    with Image.open(out / "fidelity-pictures.png") as image:
        assert image.height > 2 * 96
    labels = [variant["label"] for variant in folder.data["variants"]]
    assert labels[0] == "single LoRAs"
    assert "stacked sum" in labels
    assert not [text for text in labels if "margin" in text], "variants are not shown"
    assert all(set(variant["pictures"]) == {"zor", "kib"} for variant in folder.data["variants"])


def test_other_inputs_are_other_merges(toy: Testbed, tmp_path: Path) -> None:
    maker = Maker(toy, tmp_path, Silent())
    quick = {**QUICK, "rounds": 2}
    with toy.host.ready():
        found = {
            inputs: maker.update(MethodVariant("contrastive", quick, inputs=inputs), ("zor", "kib"), inputs)
            for inputs in INPUTS
        }
        teacher = maker.update(MethodVariant("contrastive", {**quick, "rounds": 0}), ("zor", "kib"), "no rounds")
    name = next(name for name in found["teacher"] if "attn1.to_v" in name)
    dense = {inputs: update[name].dense() for inputs, update in found.items()}
    scale = float(dense["teacher"].norm())
    assert float((dense["teacher"] - teacher[name].dense()).norm()) < 2e-3 * scale, "the file's half precision"
    for a, b in (("teacher", "student"), ("student", "last"), ("last", "aggregated")):
        assert float((dense[a] - dense[b]).norm()) > 1e-3 * scale, (a, b)


def test_the_ablation_changes_one_thing(toy: Testbed, tmp_path: Path) -> None:
    defaults = first_names(METHODS["contrastive"].options, complete_options("contrastive", {}))
    for parameter, values in VALUES.items():
        assert default_of(parameter) in values, f"{parameter}: the default must be on its curve"
        units = {json.dumps(variant_of(parameter, value).identity(toy), sort_keys=True) for value in values}
        assert len(units) == len(values), f"{parameter}: every value is measured"
        for value in values:
            variant = variant_of(parameter, value)
            if parameter.startswith("distilled ") or (parameter == "distill_steps_per_lora" and value):
                assert variant.preset == "distilled"
            complete = variant.identity(toy)
            same = [name for name, default in defaults.items() if complete[name] == default]
            assert len(same) >= len(defaults) - 1


def test_the_figures_of_an_ablation(toy: Testbed, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    study = study_in(toy, tmp_path / "work")
    out = tmp_path / "out"
    variant = MethodVariant("contrastive", QUICK)
    with toy.host.ready():
        study.measure(Unit(variant, ("zor", "kib"), 2, 0))
    units = [("margin", 1.0, Unit(variant, ("zor", "kib"), 2, 0))]
    rows = [{"parameter": p, "value": v, **study.row(unit)} for p, v, unit in units]
    out.mkdir()
    (out / "ablation.json").write_text(json.dumps(rows))
    figures.write_ablation(out)
    assert "margin" in (out / "ablation.html").read_text()
    assert (out / "ablation-margin.png").is_file()
    assert callable(ablation)


def test_a_hybrid_takes_a_part_from_the_merge_and_leaves_the_rest() -> None:
    own = {"unet.a.attn2.to_k": 1, "unet.a.attn2.to_v": 2}
    merged = {"unet.a.attn2.to_k": 10, "unet.a.attn2.to_v": 20, "text_encoder.b.q_proj": 30}
    assert hybrid(own, merged, PARTS["none"]) == own
    assert hybrid(own, merged, PARTS["all"]) == merged
    assert hybrid(own, merged, PARTS["keys"]) == {**own, "unet.a.attn2.to_k": 10}
    assert hybrid(own, merged, PARTS["text encoder"]) == {**own, "text_encoder.b.q_proj": 30}


def test_parts_begin_at_the_single_loras_and_end_at_the_merge(toy: Testbed, tmp_path: Path) -> None:
    study, variant = study_in(toy, tmp_path), MethodVariant("sum")
    with toy.host.ready():
        rows = parts(study, [variant], 2, tmp_path)
        names = draw_concepts(toy, 2, 0)
        single = [study.measure(Unit(SINGLE, (name,), 1, 0))["scores"][0]["identity_cosine"] for name in names]
        merged = study.measure(Unit(variant, names, 2, 0))["scores"]
    assert [rows[0]["part"], rows[-1]["part"]] == ["none", "all"]
    assert rows[0]["identity_cosine"] == pytest.approx(np.mean(single), abs=2e-4)
    assert rows[-1]["identity_cosine"] == pytest.approx(np.mean([s["identity_cosine"] for s in merged]), abs=2e-4)
    assert len({row["identity_cosine"] for row in rows}) > 1
