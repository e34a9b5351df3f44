"""What a job cost: seconds by phase and peak memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch


class Stopwatch:
    """Adds up wall seconds by name; `total` runs from its creation."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Generator[None]:
        """Time a block; blocks do not nest."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    @property
    def total(self) -> float:
        """Seconds since the stopwatch was made."""
        return time.perf_counter() - self._start


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far in MiB; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():  # the high-water mark of this process image; getrusage would count what it was forked from
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def peak_device_memory_mib(device: torch.device) -> float | None:
    """Largest memory that torch held on a CUDA device so far in MiB, None on other devices."""
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device) / (1024 * 1024)
