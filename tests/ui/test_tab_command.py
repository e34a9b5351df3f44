"""`tab`: what is wrong with the arguments is said before anything is served."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lib_loraclr.frontends.cli import main


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--loras", "nowhere"], "folder-missing"),
        (["--loras", ".", "--checkpoint", "nowhere.safetensors"], "file-not-found"),
        ([], "bad-arguments"),
        (["--loras", ".", "--port", "many"], "bad-arguments"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["tab", *arguments, "--json"]) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["error"]["code"] == code


def test_without_gradio_the_command_says_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "lib_loraclr.frontends.tab.tab", raising=False)
    assert main(["tab", "--loras", str(tmp_path)]) == 2
    assert "gradio" in capsys.readouterr().err
