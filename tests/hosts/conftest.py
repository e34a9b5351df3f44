"""What the tests of several hosts share."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lib_loraclr.hosts.standalone import StandaloneHost, load_checkpoint


@pytest.fixture(scope="module")
def plain(tiny_sd1: Path) -> StandaloneHost:
    """The tiny checkpoint in the standalone host, whose numbers the WebUIs' adapters must give."""
    torch.set_num_threads(1)
    return load_checkpoint(tiny_sd1)


@pytest.fixture(scope="session")
def beside() -> Callable[[str], Any]:
    """Loads a helper module of this folder by its name, once."""

    def load(name: str) -> Any:
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
        return sys.modules[name]

    return load
