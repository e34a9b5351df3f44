"""What the tests of several hosts share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lib_loraclr.hosts.standalone import StandaloneHost, load_checkpoint


@pytest.fixture(scope="module")
def plain(tiny_sd1: Path) -> StandaloneHost:
    """The tiny checkpoint in the standalone host, whose numbers the WebUIs' adapters must give."""
    torch.set_num_threads(1)
    return load_checkpoint(tiny_sd1)
