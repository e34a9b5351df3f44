"""Which size a host with patchers captures at: what the checkpoint's .yaml says, else what its family means."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture
def native_size(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(sys.modules, "modules", SimpleNamespace(shared=SimpleNamespace()))
    monkeypatch.delitem(sys.modules, "lib_loraclr.hosts.webui.checkpoint", raising=False)
    yield importlib.import_module("lib_loraclr.hosts.webui.checkpoint").native_size
    del sys.modules["lib_loraclr.hosts.webui.checkpoint"]


@pytest.mark.parametrize(
    ("family", "v_prediction", "pixels"),
    [("sd1", False, 512), ("sd2", True, 768), ("sd2", False, 512), ("sdxl", False, 1024), ("unknown", False, 1024)],
)
def test_without_a_configuration_the_family_decides(
    tmp_path: Path, native_size: Any, family: str, v_prediction: bool, pixels: int
) -> None:
    assert native_size(tmp_path / "model.safetensors", family, v_prediction) == pixels


def test_a_configuration_decides_and_is_read_again_when_it_changes(tmp_path: Path, native_size: Any) -> None:
    checkpoint, yaml = tmp_path / "model.safetensors", tmp_path / "model.yaml"
    for number, (text, pixels) in enumerate([
        ("model: {params: {image_size: 12}}", 96), ("model: {params: {image_size: 96}}", 768),
        ("model: {params: {}}", 512), ("model: {params: {image_size: wide}}", 512), ("a: [", 512), ("", 512),
        ("- 1", 512), ("model: {params: {image_size: true}}", 512),
    ]):  # fmt: skip
        yaml.write_text(text, encoding="utf-8")
        stamp = 1_000_000_000 + number
        os.utime(yaml, (stamp, stamp))
        assert native_size(checkpoint, "sd1", False) == pixels, text
