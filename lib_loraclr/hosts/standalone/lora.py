"""LoRAs applied for generation, as `<lora:FILE:weight>` does, without touching a weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from lib_loraclr.capture.hooks import inject
from lib_loraclr.core.deltas import Delta
from lib_loraclr.model import DiffusionHost


@contextmanager
def applied(host: DiffusionHost, loras: Sequence[tuple[Mapping[str, Delta], float]]) -> Iterator[None]:
    """Scope in which every LoRA of `loras` (deltas by canonical layer name, weight) acts; they add up."""
    with ExitStack() as stack:
        for deltas, weight in loras:
            stack.enter_context(inject(host.layers(), deltas, weight))
        yield
