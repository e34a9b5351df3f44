"""The published merges as their papers and programs run them, written from the formulas: the references of the study.

Gradient fusion (Gu et al. 2023, Mix-of-Show): layer by layer, min_W sum_i |(W0 + dW_i) X_i - W X_i|^2 by L-BFGS, 500
iterations for text encoder, keys and values, 50 for the rest of the UNet.

LoRACLR (Simsar et al. 2025): 50 steps of AdamW at 1e-4 on
    mean_i [ d_ii^2 + max(0, 0.5 - min_{j != i} d_ij)^2 ] + 0.1 mse + 0.001 |dW|,   d_ij = |(W0 + dW) X_i - Y_j|
where a concept's whole feature is one sample. Its program runs this under float16 autocast: the product of all features
overflows, the distances become constants, and their gradient is zero. `precision="fp16"` emulates that on any machine.

Both work in stages: the text encoder; with it merged, keys and values of the cross-attention; with both merged, the
rest. Prompts are "photo of a {c}" and "{c}"; the rest of the UNet sees 20 steps of the first, one branch, one seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.lbfgs import lbfgs
from lib_loraclr.capture import Concept
from lib_loraclr.capture.gather import KEYS_AND_VALUES
from lib_loraclr.capture.hooks import collect, inject, input_rows
from lib_loraclr.capture.prompts import phrase
from lib_loraclr.core.deltas import Delta, Dense
from lib_loraclr.core.linalg import exact_float32
from lib_loraclr.model import DiffusionHost, Phase, Progress, SampleRequest

STAGES = ("text", "keys and values", "spatial")
STEPS, SEED = 20, 0
Solver = Callable[[str, Tensor, Sequence[Tensor], Sequence[Tensor]], Tensor]
"""(stage, W0 (out, in), inputs X_i (rows, in), deltas dW_i (out, in)) -> dW (out, in)."""


def stage_of(layer: str) -> str:
    """In which stage a layer is merged."""
    if layer.startswith("text_encoder"):
        return "text"
    return "keys and values" if layer.endswith(KEYS_AND_VALUES) else "spatial"


def merge_published(
    host: DiffusionHost, concepts: Sequence[Concept], solver: Solver, *, progress: Progress | None = None
) -> dict[str, Delta]:
    """All stages, one after another; every layer that a LoRA touches. Call it inside `host.ready()`."""
    merged: dict[str, Delta] = {}
    for stage in STAGES:
        names = sorted({name for c in concepts for name in c.deltas if stage_of(name) == stage})
        rows = [_rows(host, concept, stage, names, merged) for concept in concepts]
        if progress is not None:
            progress.phase(Phase.SOLVE, len(names), f"reference loop, {stage}")
        solved: dict[str, Delta] = {}
        for name in names:
            weight = host.base_weight(name).flatten(1)
            deltas = [c.deltas[name].dense() if name in c.deltas else torch.zeros_like(weight) for c in concepts]
            # a feature is one sample, so that all need equally many rows: longer triggers lose their last ones
            least = min(len(found[name]) for found in rows)
            with exact_float32():
                solved[name] = Dense(solver(stage, weight, [found[name][:least] for found in rows], deltas))
            if progress is not None:
                progress.step()
        merged |= solved
    return merged


def _rows(
    host: DiffusionHost, concept: Concept, stage: str, names: Sequence[str], merged: Mapping[str, Delta]
) -> dict[str, Tensor]:
    """Inputs (rows, in) of the stage's layers while concept i's own LoRA acts on them and earlier stages are merged."""
    modules, found = host.layers(), {name: list[Tensor]() for name in names}
    called = phrase(concept.trigger, concept.class_word)
    prompts = [f"photo of a {called}", called]

    def receive(name: str, module: nn.Module, inputs: Tensor) -> None:
        rows = input_rows(module, inputs)
        words = host.token_mask() if stage == "text" else None
        rows = rows.flatten(0, -2) if words is None else rows[words]
        found[name].append(rows.detach().half().float().cpu())  # both programs keep features in half precision

    own = {name: concept.deltas[name] for name in names if name in concept.deltas}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(inject(modules, merged))
        if stage == "keys and values":
            context = _concept_rows(host, prompts, called)
            return dict.fromkeys(names, context)
        stack.enter_context(inject(modules, own))
        if stage == "text":
            with collect(modules, names, receive):
                for prompt in prompts:
                    host.encode([prompt])
        else:
            conditioning = host.encode(prompts[:1])
            side = host.info.native_size
            with collect(modules, names, receive):
                host.sample(SampleRequest(prompts[:1], [SEED], STEPS, (side, side)), conditioning=conditioning)
    return {name: torch.cat(parts) for name, parts in found.items()}


def _concept_rows(host: DiffusionHost, prompts: Sequence[str], called: str) -> Tensor:
    """The text encoder's output at the concept's own tokens and the end token of every prompt."""
    parts = []
    own = int(host.encode([called]).token_mask.sum()) - 2  # without begin and end
    for prompt in prompts:
        found = host.encode([prompt])
        places = found.token_mask[0].nonzero()[:, 0][-(own + 1) :]
        parts.append(found.context[0, places].detach().half().float().cpu())
    return torch.cat(parts)


def by_lbfgs(iterations: Mapping[str, int] | None = None) -> Solver:
    """Gradient fusion as published; `iterations` by stage."""
    counts = {"text": 500, "keys and values": 500, "spatial": 50, **(iterations or {})}

    def solve(stage: str, weight: Tensor, inputs: Sequence[Tensor], deltas: Sequence[Tensor]) -> Tensor:
        rows = torch.cat(list(inputs))
        wanted = torch.cat([x @ delta.T for x, delta in zip(inputs, deltas, strict=True)])
        return lbfgs(rows, wanted, counts[stage])

    return solve


@dataclass(frozen=True)
class Loraclr:
    """LoRACLR's loop; call it as a `Solver`. `history` of the last layer is kept for tests and reports."""

    precision: str = "fp32"
    iterations: int = 50
    margin: float = 0.5
    shrink: float = 0.001
    mse: float = 0.1
    rate: float = 1e-4

    def __call__(self, stage: str, weight: Tensor, inputs: Sequence[Tensor], deltas: Sequence[Tensor]) -> Tensor:
        """dW (out, in) with the least loss seen before a step."""
        rows = torch.stack(list(inputs))
        wanted = torch.stack([x @ (weight + delta).T for x, delta in zip(inputs, deltas, strict=True)])
        update = torch.zeros_like(weight)
        best, kept = float("inf"), update.clone()
        with torch.enable_grad():
            update.requires_grad_()
            optimiser = torch.optim.AdamW([update], lr=self.rate, weight_decay=1e-4)
            for _ in range(self.iterations):
                loss = self.loss(rows, wanted, weight, update)
                value = float(loss.detach())
                if value < best:
                    best, kept = value, update.detach().clone()
                optimiser.zero_grad()
                loss.backward()
                if update.grad is not None and bool(torch.isfinite(update.grad).all()):  # as a gradient scaler does
                    optimiser.step()
        return kept

    def loss(self, rows: Tensor, wanted: Tensor, weight: Tensor, update: Tensor) -> Tensor:
        """The loss of rows (N, n, in) and wanted (N, n, out), a scalar."""
        cast = half if self.precision == "fp16" else _as_it_is
        predicted = cast(rows @ cast(weight + update).T)
        distances = self.distances(predicted.flatten(1), wanted.flatten(1), cast)
        own = distances.diagonal()
        negatives = distances + torch.diag(torch.full_like(own, float("inf")))
        hinge = (self.margin - negatives.min(dim=1).values).clamp(min=0)
        fit = torch.nn.functional.mse_loss(predicted, wanted)
        return (own**2 + hinge**2).mean() + self.mse * fit + self.shrink * _norm(update)

    @staticmethod
    def distances(predicted: Tensor, wanted: Tensor, cast: Callable[[Tensor], Tensor]) -> Tensor:
        """d_ij (N, N) from the expanded square, whose product is what overflows."""
        product = cast(predicted @ wanted.T)
        squared = (predicted**2).sum(1)[:, None] + (wanted**2).sum(1)[None] - 2 * product
        return squared.clamp(min=1e-12).sqrt()


def half(values: Tensor) -> Tensor:
    """Rounded to float16, infinite beyond 65504; the gradient passes as that of a float16 product does."""
    return values + (values.detach().half().float() - values.detach())


def _as_it_is(values: Tensor) -> Tensor:
    return values


def _norm(update: Tensor) -> Tensor:
    """|dW| whose gradient at 0 is 0."""
    return update.square().sum().clamp(min=1e-24).sqrt()
