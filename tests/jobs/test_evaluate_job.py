"""`evaluate` on the tiny checkpoint: what is compared, how it goes on after a stop, what its folder and page hold."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_evaluation_numbers import Bright, Colour, flat
from tiny_loras import Recorder, options_for

from lib_loraclr.core.errors import Cancelled, InputError
from lib_loraclr.evaluation.folder import EvaluationFolder, slug, write_picture
from lib_loraclr.evaluation.job import evaluate
from lib_loraclr.evaluation.metrics import Metrics
from lib_loraclr.evaluation.options import EvaluateOptions, Subject, load_set
from lib_loraclr.frontends.cli import main
from lib_loraclr.generation.generator import SamplingParams
from lib_loraclr.hosts.standalone import load_checkpoint
from lib_loraclr.merging.options import LoraChoice
from lib_loraclr.merging.pipeline import merge

METRICS = Metrics(Colour(), Colour(), Bright(), thresholds={"colour": 0.9})
SAMPLING = SamplingParams(steps=2, cfg_scale=2.0, size=(64, 64))


def open_tiny(checkpoint, device):
    return load_checkpoint(checkpoint, device=device)


def open_metrics(options):
    return METRICS, None


@pytest.fixture(scope="module")
def merged(loras, tiny_sd1, cache, tmp_path_factory):
    """All three LoRAs as one file by the exact sum, in full precision."""
    out = tmp_path_factory.mktemp("merged") / "summed.safetensors"
    options = options_for(loras, out, tiny_sd1, cache, quick=False, method="sum", preset="instant", dtype="fp32")
    merge(options, open_host=open_tiny, progress=Recorder())
    return out


@pytest.fixture(scope="module")
def options(loras, tiny_sd1, merged, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    reference = folder / "red.png"
    write_picture(reference, flat((200, 0, 0))[0])
    subjects = tuple(
        Subject(path.stem, LoraChoice(path, trigger=f"{path.stem} man"), references=(reference,), prompts=("day {c}",))
        for path in loras
    )
    return EvaluateOptions(
        subjects, folder / "out", tiny_sd1, (merged,), stacked=True, pictures=2, sampling=SAMPLING, neutral=("a dog",)
    )


@pytest.fixture(scope="module")
def outcome(options):
    return evaluate(options, open_host=open_tiny, open_metrics=open_metrics, progress=Recorder())


def pictures_of(folder: Path, variant: str) -> np.ndarray:
    paths = sorted((folder / "pictures" / variant).glob("*.png"))
    assert paths
    return np.stack([np.asarray(Image.open(path)).astype(int) for path in paths])


def test_a_summed_file_is_the_stack_and_single_is_neither(options, outcome):
    assert [row["method"] for row in outcome.rows] == ["none", "single", "stacked", "summed"]
    stack, summed, single = (pictures_of(options.out, variant) for variant in ("stacked", "summed", "single"))
    assert np.abs(stack - summed).max() <= 1
    assert np.abs(stack[: len(single)] - single).max() > 1
    rows = {row["method"]: row for row in outcome.rows}
    assert rows["summed"]["identity_cosine"] == pytest.approx(rows["stacked"]["identity_cosine"], abs=1e-3)
    assert rows["summed"]["drift"] == pytest.approx(rows["stacked"]["drift"], abs=0.02)
    assert rows["stacked"]["drift"] > 0.05
    assert rows["none"]["drift"] is None
    assert {row["n"] for row in outcome.rows} == {3}


def test_the_numbers_are_those_of_the_pictures(options, outcome):
    """Recomputed from the PNG files: mean cosine of the mean colour to red."""
    found = []
    for name in ("kib", "vex", "zor"):
        for k in (1, 2):
            mean = (
                np.asarray(Image.open(options.out / "pictures" / "single" / f"{name}-{k}.png")).reshape(-1, 3).mean(0)
            )
            found.append(mean[0] / np.linalg.norm(mean))
    row = next(row for row in outcome.rows if row["method"] == "single")
    assert row["identity_cosine"] == pytest.approx(np.mean(found), abs=1e-4)
    assert row["identity_rate"] == pytest.approx(np.mean(np.array(found) >= 0.9), abs=1e-4)
    assert row["worst_identity_cosine"] == pytest.approx(min(np.mean(found[k : k + 2]) for k in (0, 2, 4)), abs=1e-4)


def test_it_goes_on_where_it_was(options, outcome, tmp_path):
    fresh = replace(options, out=tmp_path / "stopped")
    stop = Recorder(cancel_in="Generating pictures: all LoRAs stacked")
    with pytest.raises(Cancelled):
        evaluate(fresh, open_host=open_tiny, open_metrics=open_metrics, progress=stop)
    stopped = EvaluationFolder.open(fresh.out)
    assert [row["method"] for row in stopped.data["rows"]] == ["none", "single"]
    before = (fresh.out / "pictures" / "single" / "zor-1.png").stat().st_mtime_ns
    lost = fresh.out / "pictures" / "single" / "kib-2.png"
    lost.unlink()
    again = evaluate(fresh, open_host=open_tiny, open_metrics=open_metrics, progress=Recorder())
    assert again.rows == outcome.rows
    assert lost.exists()
    assert (fresh.out / "pictures" / "single" / "zor-1.png").stat().st_mtime_ns == before
    assert (fresh.out / "evaluation.json").read_bytes() == (options.out / "evaluation.json").read_bytes()


def test_an_evaluation_of_version_0_1_0_goes_on(options, outcome, tmp_path):
    """Its names for the same things are read: nothing is made again, and what is written has today's names."""
    fresh = replace(options, out=tmp_path / "old")
    shutil.copytree(options.out, fresh.out)
    file = fresh.out / "evaluation.json"
    today = json.loads(file.read_text())
    old = {**today, "format": 1, "ways": today["variants"], "settings": dict(today["settings"])}
    del old["variants"]
    sampling = old["settings"].pop("sampling")
    old["settings"]["brush"] = {"steps": sampling["steps"], "cfg": sampling["cfg_scale"], "size": sampling["size"],
                                "negative": "", "sampler": "ddim", "batch": 0}  # fmt: skip
    old["settings"]["meters"] = old["settings"].pop("metrics")
    file.write_text(json.dumps(old))
    seen = Recorder()
    again = evaluate(fresh, open_host=open_tiny, open_metrics=open_metrics, progress=seen)
    assert again.rows == outcome.rows
    assert not [name for name in seen.reached if name.startswith("Generating")]
    assert json.loads(file.read_text()) == today


def test_another_evaluation_is_not_mixed_in(options, outcome):
    other = replace(options, seed=7)
    kept = (options.out / "evaluation.json").read_bytes()
    with pytest.raises(InputError) as caught:
        evaluate(other, open_host=open_tiny, open_metrics=open_metrics, progress=Recorder())
    assert caught.value.code == "output-exists"
    assert (options.out / "evaluation.json").read_bytes() == kept


def test_a_merged_file_can_be_added_and_replaced(options, outcome, loras, tmp_path):
    """Nothing but the new file's pictures is painted; a file of the same name with another content is another file."""
    one = replace(options, out=tmp_path / "e", merged=(), stacked=False, subjects=options.subjects[:1], pictures=1)
    run = {"open_host": open_tiny, "open_metrics": open_metrics}
    evaluate(one, **run, progress=Recorder())
    file = tmp_path / "other.safetensors"
    file.write_bytes(loras[0].read_bytes())
    seen = Recorder()
    added = evaluate(replace(one, merged=(file,)), **run, progress=seen)
    assert [row["method"] for row in added.rows] == ["none", "single", "other"]
    assert seen.reached.count("Generating pictures: single LoRAs") == 0
    np.testing.assert_array_equal(pictures_of(one.out, "other")[-1:], pictures_of(one.out, "single")[:1])
    file.write_bytes(loras[1].read_bytes())
    evaluate(replace(one, merged=(file,)), **run, progress=Recorder())
    assert np.abs(pictures_of(one.out, "other")[-1:] - pictures_of(one.out, "single")[:1]).max() > 1
    again = evaluate(one, **run, progress=Recorder())
    assert [row["method"] for row in again.rows] == ["none", "single", "other"], "what was measured stays"


def test_overwriting_paints_anew_and_spares_strangers(options, tmp_path):
    small = replace(options, out=tmp_path / "e", merged=(), stacked=False, subjects=options.subjects[:1], pictures=1)
    evaluate(small, open_host=open_tiny, open_metrics=open_metrics, progress=Recorder())
    (small.out / "notes.txt").write_text("mine")
    first = pictures_of(small.out, "single")
    evaluate(
        replace(small, seed=7, overwrite=True), open_host=open_tiny, open_metrics=open_metrics, progress=Recorder()
    )
    assert np.abs(pictures_of(small.out, "single") - first).max() > 1
    assert (small.out / "notes.txt").read_text() == "mine"
    assert EvaluationFolder.open(small.out).data["settings"]["seed"] == 7


def test_the_page_opens_without_a_network(options, outcome):
    page = outcome.report.read_text()
    assert page.startswith("<!doctype html>")
    assert "default-src 'none'" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    assert "http" not in page.replace("http-equiv", "")
    # three concepts, two pictures each in four columns of methods, and one reference each
    assert page.count("data:image/jpeg;base64,") == 3 * (4 * 2 + 1)
    assert "all LoRAs stacked" in page


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"merged": (Path("/nowhere.safetensors"),)}, "file-not-found"),
        ({"out": Path("/proc/version/x")}, "folder-missing"),
    ],
)
def test_wrong_paths_are_found_before_the_model(options, change, code):
    with pytest.raises(InputError) as caught:
        evaluate(
            replace(options, **change), open_host=lambda *_: pytest.fail("opened"), open_metrics=open_metrics,
            progress=Recorder(),
        )  # fmt: skip
    assert caught.value.code == code


@pytest.mark.parametrize("change", [{"subjects": ()}, {"pictures": 0}, {"sampling": SamplingParams(steps=0)}])
def test_wrong_options(options, change):
    with pytest.raises(InputError):
        replace(options, **change)
    with pytest.raises(InputError, match="Two concepts"):
        replace(options, subjects=options.subjects[:1] * 2)


def test_a_set_file(tmp_path, loras):
    text = {
        "checkpoint": "model.safetensors", "embedder": "e.safetensors", "unrelated": 1, "neutral_prompts": ["", "a"],
        "generation": {"width": 96, "height": 64, "steps": 3, "cfg_scale": 2.5, "negative_prompt": "no"},
        "concepts": [
            {"name": "a", "kind": "style", "trigger": "zor style", "file": "l/a.safetensors", "references": ["r/a.png"],
             "prompts": ["x {c}"]},
            {"name": "b", "file": "l/b.safetensors"},
        ],
    }  # fmt: skip
    path = tmp_path / "set.json"
    path.write_text(json.dumps(text))
    found = load_set(path)
    assert [s.name for s in found.subjects] == ["a", "b"]
    assert found.subjects[0].choice.file == tmp_path / "l/a.safetensors"
    assert found.subjects[0].references == (tmp_path / "r/a.png",)
    assert found.subjects[0].filled("zor style", "") == ("x zor style",)
    assert found.sampling == SamplingParams(3, 2.5, (96, 64), "no")
    assert (found.checkpoint, found.neutral) == (tmp_path / "model.safetensors", ("", "a"))
    assert [s.name for s in load_set(path, ["b"]).subjects] == ["b"]
    for wrong in ("{", "[]", '{"concepts": []}', '{"concepts": [{"name": "a"}]}', '{"concepts": [1]}'):
        path.write_text(wrong)
        with pytest.raises(InputError):
            load_set(path)


def test_the_command_line(options, outcome, merged, tiny_sd1, loras, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("day {c}\n\n")
    reference = str(options.subjects[0].references[0])
    arguments = ["evaluate", "--checkpoint", tiny_sd1, "--merged", merged, "--pictures", 2, "--steps", 2, "--cfg", 2,
                 "--size", "64x64", "--prompts", prompts, "--device", "cpu", "--out", tmp_path / "out",
                 "--json"]  # fmt: skip
    for path in loras:
        arguments += ["--lora", path, "--trigger", f"{path.stem} man", "--references", reference]
    assert main([str(a) for a in arguments]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["ok"] is True
    assert [row["method"] for row in answer["rows"]] == ["none", "single", "summed"]
    assert answer["rows"][1]["identity_cosine"] is None, "no embedder was given"
    painted = pictures_of(tmp_path / "out", "single")
    np.testing.assert_array_equal(painted, pictures_of(options.out, "single"))
    assert main(["evaluate", "--checkpoint", str(tiny_sd1), "--out", str(tmp_path / "x")]) == 2
    assert main([str(a) for a in arguments if a != "--json"] + ["--clip", str(tmp_path), "--overwrite"]) == 2
    assert "config.json" in capsys.readouterr().err


def test_names_become_safe_file_names():
    assert slug("zor(2)") == "zor(2)"
    names = ["../../etc/passwd", "a b", "a-b", "a/b", "..", "", "zor (2)", "C:\\x", "ä"]
    slugs = [slug(name) for name in names]
    assert len(set(slugs)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9(][A-Za-z0-9._()+-]*", text) for text in slugs), slugs
