"""Shares the LoRA files of tests/jobs."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))

from tiny_loras import loras

__all__ = ["loras"]
