"""The command line: grammar, JSON contract, exit status; most in-process, few through a real process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_loras import LAYERS, QUICK, lora_tensors, write_lora_file

from lib_loraclr.app.jobs import OUT_OF_MEMORY
from lib_loraclr.core.errors import InputError
from lib_loraclr.frontends.cli import main
from lib_loraclr.frontends.cli.arguments import pair

ROOT = Path(__file__).resolve().parents[2]
QUICK_ARGUMENTS = [part for name, value in QUICK.items() for part in ("--option", f"{name}={value}")]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any], str]:
    """Exit status, the JSON object of the last line, and everything on standard error."""
    status = main([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    return status, json.loads(out.splitlines()[-1]), err


def start(*arguments: object, **settings: Any) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    command = [sys.executable, "-m", "lib_loraclr", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LORACLR_CACHE": str(settings.pop("cache", ROOT / "none"))}
    if os.name == "posix":  # a shell lets what it starts in the background, and its children, ignore Ctrl-C
        settings["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **settings
    )


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ("l:A t:a l:B t:b", [("A", "a"), ("B", "b")]),
        ("l:A l:B t:a t:b", [("A", "a"), ("B", "b")]),
        ("t:a l:A t:b l:B", [("A", "a"), ("B", "b")]),
        ("l:A l:B t:b", [("A", None), ("B", "b")]),
        ("l:A t:a l:B", [("A", "a"), ("B", None)]),
        ("l:A l:B", [("A", None), ("B", None)]),
        ("l:A t: l:B t:b", [("A", ""), ("B", "b")]),
    ],
)
def test_triggers_find_their_lora(events: str, expected: list[tuple[str, str | None]]) -> None:
    names = {"l": "lora", "t": "trigger"}
    typed = [(names[part[0]], part[2:]) for part in events.split(" ")]
    assert [(entry["lora"], entry.get("trigger")) for entry in pair(typed)] == expected


@pytest.mark.parametrize("events", ["t:a l:A l:B", "l:A t:a t:b l:B l:C", "l:A t:a t:b"])
def test_triggers_that_belong_to_nobody(events: str) -> None:
    names = {"l": "lora", "t": "trigger"}
    with pytest.raises(InputError, match="trigger"):
        pair([(names[part[0]], part[2:]) for part in events.split(" ")])


def test_merge_prints_the_documented_object(
    loras: list[Path], tiny_sd1: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.safetensors"
    pairs = ["--lora", f"{loras[0]}:0.9:0.5", "--trigger", "zor man", "--lora", loras[2], "--class-word", "woman"]
    settings = ["--checkpoint", tiny_sd1, "--out", out, "--cache", cache, "--device", "cpu", "--report", tmp_path / "r"]
    status, answer, err = run(capsys, "merge", *pairs, *settings, *QUICK_ARGUMENTS)
    assert status == 0
    assert list(answer) == ["ok", "out", "method", "seconds", "peak_memory_mib", "concepts", "warnings"]
    assert (answer["ok"], answer["out"], answer["method"]) == (True, str(out), "gradient-fusion")
    assert [concept["name"] for concept in answer["concepts"]] == ["zor", "vex"]
    assert names_in(tmp_path) == ["m.json", "m.report.html", "m.report.json", "m.safetensors", "r"]
    assert "Watching the model" in err
    inputs = json.loads((tmp_path / "r" / "m.report.json").read_text(encoding="utf-8"))["inputs"]
    assert [(i["weight"], i["te_weight"], i["trigger"], i["class_word"]) for i in inputs] == [
        (0.9, 0.5, "zor man", "man"),
        (1.0, 1.0, "vex woman", "woman"),
    ]


def test_a_recipe_and_the_command_line_meet(
    loras: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "recipes"
    folder.mkdir()
    recipe = {"lora": [str(path) for path in loras], "method": "sum", "out": "from-recipe.safetensors", "dtype": "fp32"}
    (folder / "r.json").write_text(json.dumps(recipe), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    status, answer, _ = run(capsys, "merge", "recipes/r.json")
    assert (status, Path(answer["out"])) == (0, folder / "from-recipe.safetensors")
    status, answer, _ = run(capsys, "merge", "recipes/r.json", "--method", "average", "--out", "here.safetensors")
    assert (status, answer["method"]) == (0, "average")
    assert (tmp_path / "here.safetensors").is_file()
    (folder / "r.json").write_text(json.dumps({**recipe, "metod": "sum"}), encoding="utf-8")
    status, answer, _ = run(capsys, "merge", "recipes/r.json")
    assert (status, answer["error"]["key"], answer["error"]["file"]) == (2, "metod", "recipes/r.json")


def bad_files(folder: Path) -> dict[str, str]:
    """File name -> a word that the sentence about it must hold."""
    good = write_lora_file(folder / "good.safetensors", lora_tensors(1)).read_bytes()
    key = next(iter(LAYERS))
    (folder / "truncated.safetensors").write_bytes(good[: len(good) // 2])
    (folder / "empty.safetensors").write_bytes(b"")
    (folder / "long-header.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + good[8:])
    (folder / "text.safetensors").write_text("this is not a model")
    torch.save({"weight": torch.ones(2)}, folder / "pickle.pt")
    nan = lora_tensors(1)
    nan[f"{key}.lora_up.weight"][0, 0] = float("nan")
    write_lora_file(folder / "nan.safetensors", nan)
    inf = lora_tensors(1)
    inf[f"{key}.lora_down.weight"][0, 0] = float("inf")
    write_lora_file(folder / "inf.safetensors", inf)
    half = lora_tensors(1)
    del half[f"{key}.lora_down.weight"]
    write_lora_file(folder / "half.safetensors", half)
    write_lora_file(folder / "rank.safetensors", lora_tensors(1) | {f"{key}.lora_up.weight": torch.ones(32, 5)})
    save_file({"something.else": torch.ones(2, 2)}, folder / "other.safetensors")
    return {
        "truncated.safetensors": "truncated",
        "empty.safetensors": "empty",
        "long-header.safetensors": "header",
        "text.safetensors": "safetensors",
        "pickle.pt": "pickle",
        "nan.safetensors": "NaN",
        "inf.safetensors": "infinite",
        "half.safetensors": "without",
        "rank.safetensors": "rank",
        "other.safetensors": "no LoRA layer",
        "missing.safetensors": "not exist",
    }


def test_bad_lora_files_get_one_clear_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name, word in bad_files(tmp_path).items():
        arguments = ["--lora", tmp_path / "good.safetensors", "--lora", tmp_path / name, "--out", out / "m.safetensors"]
        status, answer, err = run(capsys, "merge", "--method", "sum", *arguments)
        assert (status, answer["ok"], list(answer["error"])) == (2, False, ["code", "message", "file", "key"]), name
        assert word in answer["error"]["message"], answer
        assert name in answer["error"]["file"]
        assert "Traceback" not in err
        assert names_in(out) == []
        status, answer, _ = run(capsys, "inspect", tmp_path / name)
        assert (status, answer["ok"], answer["files"][0]["ok"]) == (2, False, False), name


def test_wrong_arguments(loras: list[Path], tiny_sd1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.safetensors").write_bytes(loras[0].read_bytes())
    one, out = ["--lora", loras[0], "--trigger", "zor"], ["--out", tmp_path / "m.safetensors"]
    table: list[tuple[list[object], str]] = [
        ([], "empty-selection"),
        ([*out], "empty-selection"),
        ([*one], "missing-option"),
        ([*one, *out], "missing-checkpoint"),
        ([*one, *out, "--checkpoint", tmp_path / "none.safetensors"], "file-not-found"),
        ([*one, *out, "--checkpoint", tmp_path / "model.safetensors"], "lora-as-checkpoint"),
        ([*one, *out, "--frobnicate"], "bad-arguments"),
        ([*one, *out, "--seed", "soon"], "bad-arguments"),
        ([*one, *out, "--method", "magic"], "unknown-method"),
        ([*one, *out, "--option", "margin"], "bad-arguments"),
        ([*one, *out, "--option", "margin=wide"], "bad-option"),
        ([*one, *out, "--rank", "lots"], "bad-rank"),
        ([*one, *one, *out, "--method", "sum"], "same-file"),
        (["--trigger", "zor", *out], "bad-arguments"),
        ([tmp_path / "none.json"], "file-not-found"),
    ]
    before = names_in(tmp_path)
    for arguments, code in table:
        status, answer, err = run(capsys, "merge", *arguments)
        assert (status, answer["error"]["code"]) == (2, code), (arguments, answer)
        assert "Traceback" not in err
        assert names_in(tmp_path) == before


def test_people_get_a_table_and_paths(loras: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", "--method", "sum", "--lora", str(loras[0]), "--out", str(tmp_path / "m.safetensors")]) == 0
    assert str(tmp_path / "m.safetensors") in capsys.readouterr().out
    assert main(["inspect", str(loras[1])]) == 0
    assert "3 x 8" in capsys.readouterr().out
    assert main(["overlap", *map(str, loras)]) == 0
    assert "1.000" in capsys.readouterr().out
    assert main(["merge", "--lora", "nowhere.safetensors", "--out", str(tmp_path / "n.safetensors")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "nowhere.safetensors" in err


def test_overlap_of_a_lora_with_its_negative(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = lora_tensors(4)
    first = write_lora_file(tmp_path / "a.safetensors", tensors)
    flipped = {key: -value if "lora_up" in key else value for key, value in tensors.items()}
    second = write_lora_file(tmp_path / "b.safetensors", flipped)
    status, answer, _ = run(capsys, "overlap", first, second)
    assert status == 0
    assert answer["names"] == ["a", "b"]
    assert answer["matrix"] == [[1.0, pytest.approx(-1.0)], [pytest.approx(-1.0), 1.0]]


def test_the_ending_of_the_output_is_checked_before_the_inputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, answer, _ = run(
        capsys, "merge", "--method", "sum", "--lora", tmp_path / "none.safetensors", "--out", tmp_path / "m.txt"
    )
    assert status == 2
    assert answer["error"]["code"] == "bad-output-name"


DEFECT = "Something went wrong: RuntimeError: index out of range. The console has the details."


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (
            RuntimeError("index out of range"),
            "unexpected",
            "Something went wrong: RuntimeError: index out of range. The console has the details.",
        ),
        (MemoryError(), "out-of-memory", OUT_OF_MEMORY),
    ],
)
def test_a_defect_is_status_1_and_still_one_object(
    error: Exception, code: str, sentence: str, monkeypatch: pytest.MonkeyPatch, loras: list[Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("lib_loraclr.merging.pipeline.solve", broken)
    out = tmp_path / "out.safetensors"
    status, answer, err = run(capsys, "merge", "--method", "sum", "--lora", loras[0], "--lora", loras[1], "--out", out)
    assert (status, answer["ok"], answer["error"]["code"], answer["error"]["message"]) == (1, False, code, sentence)
    assert ("Traceback" in err) == (code == "unexpected")
    assert names_in(tmp_path) == []


def test_help_of_every_command() -> None:
    process = start("merge", "--help")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    for word in ("--lora FILE[:WEIGHT[:TE_WEIGHT]]", "contrastive", "gradient-fusion", "sampling_steps", "margin="):
        assert word in out


def test_bad_input_in_a_real_process(tmp_path: Path) -> None:
    (tmp_path / "empty.safetensors").write_bytes(b"")
    process = start(
        "merge",
        "--method",
        "sum",
        "--lora",
        tmp_path / "empty.safetensors",
        "--out",
        tmp_path / "m.safetensors",
        "--json",
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert json.loads(out.splitlines()[-1])["error"]["file"].endswith("empty.safetensors")
    assert "Traceback" not in err
    assert names_in(tmp_path) == ["empty.safetensors"]


@pytest.mark.parametrize("phase", ["Watching the model", "Distilling", "Solving"])
def test_ctrl_c_ends_quietly_and_leaves_nothing(phase: str, loras: list[Path], tiny_sd1: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    pairs = [part for path in loras for part in ("--lora", path, "--trigger", f"{path.stem} man")]
    long = {"Watching the model": ("sampling_steps=100", "rounds=1"), "Distilling": ("distill=5000",)}
    many = [*QUICK_ARGUMENTS, *(part for option in long.get(phase, ()) for part in ("--option", option))]
    process = start(
        "merge", "--checkpoint", tiny_sd1, *pairs, "--out", folder / "m.safetensors", "--report", folder / "report",
        "--cache", tmp_path / "cache", "--device", "cpu", "--json", *many,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(phase):
            break
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert json.loads(out.splitlines()[-1])["error"]["code"] == "cancelled"
    assert "Traceback" not in err
    assert names_in(folder) == []
