"""Shares the LoRA files and lets the tests of this folder import their helpers by name."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from distilling import concepts, dataset, host, progress
from tiny_loras import cache, loras

__all__ = ["cache", "concepts", "dataset", "host", "loras", "progress"]
