"""What the WebUI and its extension index read of the repository."""

from __future__ import annotations

import ast
import configparser
import importlib
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
# tags.json of the index
TAGS = {
    "script", "localization", "tab", "dropdown", "ads", "installed", "training", "models", "UI related", "prompting",
    "editing", "manipulations", "online", "animation", "query", "science", "extras",
}  # fmt: skip


def test_the_index_entry_follows_the_index_s_rules() -> None:
    entry = json.loads((ROOT / "docs" / "index-entry.json").read_text(encoding="utf-8"))
    assert list(entry) == ["name", "url", "description", "tags"]  # "added" is filled in by the index
    assert re.fullmatch(r"https://[^ ]+", entry["url"])
    assert entry["url"].rpartition("/")[2] == "sd-webui-loraclr"
    assert set(entry["tags"]) <= TAGS
    assert entry["description"].isascii()
    assert len(entry["description"]) < 200


def test_metadata_names_the_extension_as_its_folder() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "metadata.ini", encoding="utf-8")
    assert parser["Extension"]["Name"] == "sd-webui-loraclr"
    assert "Requires" not in parser["Extension"]


def test_scripts_import_nothing_heavy_when_the_webui_loads_them() -> None:
    path = ROOT / "scripts" / "loraclr_tab.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = [ast.unparse(node) for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert top == ["from lib_loraclr.hosts.webui.callbacks import register"]
    register = ast.parse((ROOT / "lib_loraclr" / "hosts" / "webui" / "callbacks.py").read_text(encoding="utf-8"))
    named = [node.module for node in register.body if isinstance(node, ast.ImportFrom)]
    assert named == ["__future__", "collections.abc", "typing", "modules"]
    package = ast.parse((ROOT / "lib_loraclr" / "__init__.py").read_text(encoding="utf-8"))
    imported = [node.module for node in package.body if isinstance(node, ast.ImportFrom)]
    assert imported == ["__future__", "importlib", "typing", "lib_loraclr.version"]


def test_callbacks_are_registered_by_file_or_as_the_webui_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[object] = []
    new = SimpleNamespace(
        callback_map={"callbacks_ui_tabs": found},
        add_callback=lambda callbacks, call, *, category, filename: callbacks.append((call, category, filename)),
    )
    old = SimpleNamespace(on_ui_tabs=lambda call: found.append(call))
    for host in (new, old):
        monkeypatch.setitem(sys.modules, "modules", SimpleNamespace(script_callbacks=host))
        monkeypatch.delitem(sys.modules, "lib_loraclr.hosts.webui.callbacks", raising=False)
        importlib.import_module("lib_loraclr.hosts.webui.callbacks").register("a.py", ui_tabs=print)
    monkeypatch.delitem(sys.modules, "lib_loraclr.hosts.webui.callbacks")
    assert found == [(print, "ui_tabs", "a.py"), print]


def test_installing_adds_nothing_to_the_webui() -> None:
    tree = ast.parse((ROOT / "install.py").read_text(encoding="utf-8"))
    assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in tree.body)
