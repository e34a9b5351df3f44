"""Pictures of many prompts under one set of updates, side by side in batches, the same for the same seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lib_loraclr.capture import inject
from lib_loraclr.core.deltas import Delta, add
from lib_loraclr.evaluation.meters import Pictures
from lib_loraclr.model import DiffusionHost, Progress, SampleRequest

BATCH_PIXELS = 4 * 512 * 512


@dataclass(frozen=True)
class Brush:
    """How pictures are sampled; `size` None is the model's own, `batch` 0 fills about four pictures of 512 x 512."""

    steps: int = 20
    cfg: float = 7.0
    size: tuple[int, int] | None = None
    negative: str = ""
    sampler: str = "ddim"
    batch: int = 0

    def batch_of(self, host: DiffusionHost) -> int:
        """Pictures that are sampled side by side, 32 at most."""
        width, height = self.size_of(host)
        return self.batch or max(1, min(32, BATCH_PIXELS // (width * height)))

    def size_of(self, host: DiffusionHost) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.size or (host.info.native_size, host.info.native_size)


def stacked(parts: Sequence[Mapping[str, Delta]]) -> dict[str, Delta]:
    """The exact sum of several updates, as stacked tags in a prompt give it."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: add([part[name] for part in parts if name in part]) for name in names}


def paint(
    host: DiffusionHost,
    deltas: Mapping[str, Delta],
    prompts: Sequence[str],
    seeds: Sequence[int],
    brush: Brush,
    progress: Progress | None = None,
) -> Pictures:
    """One picture per prompt and seed, uint8 (n, h, w, 3), while `deltas` act. Call it inside `host.ready()`."""
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds")
    size, batch, layers = brush.size_of(host), brush.batch_of(host), host.layers()
    found: list[Pictures] = []
    with inject({name: layers[name] for name in deltas}, deltas):
        for first in range(0, len(prompts), batch):
            part = slice(first, first + batch)
            request = SampleRequest(
                list(prompts[part]), list(seeds[part]), brush.steps, size, brush.cfg, brush.negative, brush.sampler
            )
            found.append(host.decode(host.sample(request, progress)).numpy())
    width, height = size
    return np.concatenate(found) if found else np.zeros((0, height, width, 3), np.uint8)


def sampling_steps(host: DiffusionHost, brush: Brush, pictures: int) -> int:
    """Progress steps that `paint` makes for so many pictures."""
    return -(-pictures // brush.batch_of(host)) * brush.steps
