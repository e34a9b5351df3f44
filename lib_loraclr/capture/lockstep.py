"""Several concepts side by side in one batch, each with its own LoRA: gives X_i^T X_j, which single runs cannot.

All rows of a batch have the same seed, template and steps, so row r of concept i and row r of concept j are the same
place of the same noise. Used only for the negatives of the LoRACLR paper: memory grows with the square of N.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib_loraclr.capture.gather import Run, picture_size
from lib_loraclr.capture.hooks import collect, inject, input_features, input_rows
from lib_loraclr.capture.settings import CaptureSettings
from lib_loraclr.core.errors import LoraclrError
from lib_loraclr.core.linalg import exact_float32
from lib_loraclr.core.moments import SecondMoment, moment_dtype
from lib_loraclr.model import DiffusionHost, Progress, SampleRequest


@dataclass(frozen=True)
class Lockstep:
    """Runs of equally many prompts and equal seeds, one per concept."""

    runs: tuple[Run, ...]

    @property
    def sampled(self) -> bool:
        """Whether the runs watch the sampler."""
        return self.runs[0].sampled

    @property
    def prompts(self) -> tuple[str, ...]:
        """The first concept's prompts: their number is the number of batches."""
        return self.runs[0].prompts


def pair_name(i: int, j: int, layer: str) -> str:
    """Under which the moment X_i^T X_j of a layer is kept."""
    return f"{i}x{j}:{layer}"


class Products(Mapping[tuple[int, int], Tensor]):
    """`Statistics.cross`: (i, j), i < j -> X_i^T X_j / rows, read when asked for."""

    def __init__(self, moments: Mapping[tuple[int, int], SecondMoment]) -> None:
        self.moments = dict(moments)

    def __getitem__(self, pair: tuple[int, int]) -> Tensor:
        return self.moments[pair].mean()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.moments)

    def __len__(self) -> int:
        return len(self.moments)

    def plus(self, other: Products) -> Products:
        """Both captures together."""
        return Products({pair: moment.plus(other.moments[pair]) for pair, moment in self.moments.items()})


def gather_lockstep(
    host: DiffusionHost, step: Lockstep, layers: Sequence[str], settings: CaptureSettings,
    progress: Progress | None = None,
) -> dict[str, SecondMoment]:  # fmt: skip
    """Moments by `pair_name(i, j, layer)` for i <= j; one batch of N rows per prompt."""
    modules, count = host.layers(), len(step.runs)
    totals = _PairTotals(host, step.sampled, count, settings.padding_weight)
    with ExitStack() as stack:
        for row, run in enumerate(step.runs):
            stack.enter_context(inject(modules, run.deltas, rows=slice(row, row + 1)))
        for number in range(len(step.prompts)):
            prompts = [run.prompts[number] for run in step.runs]
            if not step.sampled:
                with collect(modules, layers, totals):
                    host.unet_call(host.encode(prompts))
                continue
            request = SampleRequest(
                prompts, [step.runs[0].seeds[number]] * count, settings.steps, picture_size(host, settings),
                sampler=settings.sampler,
            )  # fmt: skip
            conditioning = host.encode(prompts)
            with collect(modules, layers, totals):
                host.sample(request, progress, conditioning=conditioning)
        if progress is not None and not step.sampled:
            progress.step()
    return totals.moments


class _PairTotals:
    """A receiver that adds the products of every pair of rows of the batch."""

    def __init__(self, host: DiffusionHost, sampled: bool, count: int, padding_weight: float) -> None:
        self.moments: dict[str, SecondMoment] = {}
        self.host, self.sampled, self.count, self.padding_weight = host, sampled, count, padding_weight

    def __call__(self, name: str, module: nn.Module, inputs: Tensor) -> None:
        """Add X_i^T X_j of this call."""
        if len(inputs) != self.count:
            raise LoraclrError(
                "split-batch",
                f"Cross moments need all {self.count} concepts in one batch, but the host ran {len(inputs)} at a time.",
                key=name,
            )
        with exact_float32():
            precision = moment_dtype(inputs.device)
            rows = [input_rows(module, one).flatten(0, -2).to(precision) for one in inputs.split(1)]
            weights = torch.ones(len(rows[0]), device=inputs.device)
            words = None if self.sampled else self.host.word_rows()
            if words is not None and words.shape == inputs.shape[:-1]:
                weights = torch.where(words.any(0), 1.0, self.padding_weight).to(inputs.device)
            scaled = [one * weights[:, None] for one in rows]
            for i in range(self.count):
                for j in range(i, self.count):
                    self._add(pair_name(i, j, name), module, scaled[i], rows[j], float(weights.sum()))

    def _add(self, key: str, module: nn.Module, left: Tensor, right: Tensor, count: float) -> None:
        if key not in self.moments:
            self.moments[key] = SecondMoment.zeros(input_features(module), device=left.device)
        self.moments[key].total.addmm_(left.T, right)
        self.moments[key].rows += count
