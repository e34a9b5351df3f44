"""`lib_loraclr.merge` and `lib_loraclr.inspect`, and the example of docs/python.md."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_loras import Recorder

import lib_loraclr
from lib_loraclr.formats.safetensors_io import SafetensorsFile
from lib_loraclr.frontends.cli import main

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_documented_example_runs(
    loras: list[Path],
    tiny_sd1: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for source, name in ((loras[0], "anna"), (loras[1], "ben"), (tiny_sd1, "model")):
        shutil.copy(source, tmp_path / f"{name}.safetensors")
    shutil.copy(tiny_sd1.with_suffix(".yaml"), tmp_path / "model.yaml")
    monkeypatch.chdir(tmp_path)
    assert EXAMPLE is not None
    exec(compile(EXAMPLE[1], "docs/python.md", "exec"), {"__name__": "example"})
    out = capsys.readouterr().out
    assert "sd1" in out
    assert re.search(r"^anna: \d+% of what the LoRA does is kept$", out, re.MULTILINE)
    assert {"stacked.safetensors", "both.safetensors", "captured"} <= {path.name for path in tmp_path.iterdir()}


def test_a_program_and_the_command_line_write_the_same_file(
    loras: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = loras[:2]
    chosen = [lib_loraclr.LoraChoice(first, weight=0.7, te_weight=0.2), second]
    outcome = lib_loraclr.merge(chosen, tmp_path / "a.safetensors", method="ties", rank=3, options={"density": 0.5})
    typed = ["--lora", f"{first}:0.7:0.2", "--lora", str(second), "--method", "ties", "--rank", "3"]
    assert main(["merge", *typed, "--option", "density=0.5", "--out", str(tmp_path / "b.safetensors"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["ok"]
    files = [SafetensorsFile.open(tmp_path / f"{name}.safetensors") for name in "ab"]
    assert outcome.out == tmp_path / "a.safetensors"
    assert list(files[0].tensors) == list(files[1].tensors)
    assert all(files[0].read(key).equal(files[1].read(key)) for key in files[0].tensors)


def test_wrong_input_is_an_input_error_with_its_key(loras: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    for expected, wrong in (
        (("empty-selection", "lora"), lambda: lib_loraclr.merge([], out)),
        (("bad-option", "preset"), lambda: lib_loraclr.merge(loras, out, preset="fastest")),
        (("missing-checkpoint", "checkpoint"), lambda: lib_loraclr.merge(loras, out)),
        (("file-not-found", None), lambda: lib_loraclr.inspect(tmp_path / "none.safetensors")),
    ):
        with pytest.raises(lib_loraclr.InputError) as error:
            wrong()
        assert (error.value.code, error.value.key) == expected
    assert list(tmp_path.iterdir()) == []


def test_progress_is_told_and_may_cancel(loras: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    recorder = Recorder()
    lib_loraclr.merge(loras, out, method="sum", progress=recorder)
    last = recorder.phases[-1][0]
    with pytest.raises(lib_loraclr.Cancelled):
        lib_loraclr.merge(loras, tmp_path / "no.safetensors", method="sum", progress=Recorder(cancel_in=last))
    assert {path.stem for path in tmp_path.iterdir()} == {"out"}


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, lib_loraclr; print('torch' in sys.modules, sorted(lib_loraclr.__all__) == lib_loraclr.__all__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
    for name in lib_loraclr.__all__:
        assert getattr(lib_loraclr, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'merg'"):
        _ = lib_loraclr.merg
