"""The adapters against the source of a real WebUI: set LORACLR_WEBUI_DIR to a checkout of A1111, Forge or reForge."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("host_contract", Path(__file__).with_name("contract.py"))
contract = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(contract)
ROOT = Path(__file__).resolve().parents[2]
CHECKOUT = Path(os.environ.get("LORACLR_WEBUI_DIR", "/nowhere"))


@pytest.mark.parametrize("family", sorted(contract.ADAPTERS))
def test_every_host_attribute_of_an_adapter_is_in_its_contract(family: str) -> None:
    names = set().union(*contract.known(family).values()) | contract.OTHERS
    files = [*contract.adapter_files(ROOT / "lib_loraclr", family), *sorted((ROOT / "scripts").glob("*.py"))]
    missing = {path.name: sorted(contract.touched(path) - names) for path in files}
    assert not {name: gone for name, gone in missing.items() if gone}


@pytest.mark.parametrize("family", sorted(contract.ADAPTERS))
def test_the_contract_lists_nothing_that_no_adapter_touches(family: str) -> None:
    files = [*contract.adapter_files(ROOT / "lib_loraclr", family), *sorted((ROOT / "scripts").glob("*.py"))]
    sources = "\n".join(path.read_text(encoding="utf-8") for path in files)
    assumed = {"FakeInitialModel", "ExtraNetworkLora", "LoraPatches", "cond_stage_key", "embedder"}
    unused = {
        name for names in contract.known(family).values() for name in names
        if name.removeprefix("callbacks_") not in sources  # names of `register`
    }  # fmt: skip
    assert unused <= assumed


@pytest.mark.host
@pytest.mark.skipif(not CHECKOUT.is_dir(), reason="LORACLR_WEBUI_DIR is not a checkout of a WebUI")
def test_a_real_checkout_defines_what_the_adapters_touch() -> None:
    marks = {"forge": "backend/memory_management.py", "ldm_patched": "ldm_patched/modules/model_management.py"}
    family = next((family for family, mark in marks.items() if (CHECKOUT / mark).is_file()), "a1111")
    missing: dict[str, list[str]] = {}
    for file, names in contract.known(family).items():
        path = CHECKOUT / file
        if not path.is_file() and file.startswith("repositories/"):
            continue
        gone = sorted(names - contract.defined(path)) if path.is_file() else ["the file"]
        if gone:
            missing[file] = gone
    assert not missing, family
