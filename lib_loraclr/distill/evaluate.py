"""How much of each concept a merged LoRA keeps in the predictions of the whole model, on inputs that it did not learn.

Layer by layer a distilled merge looks worse than it is, because it goes other ways to the same prediction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lib_loraclr.capture import CaptureSettings, Concept, TensorCache, inject
from lib_loraclr.capture.run import held_out_runs, neutral_runs
from lib_loraclr.core.deltas import Delta
from lib_loraclr.core.errors import out_of_memory, release_memory
from lib_loraclr.core.fidelity import ConceptFidelity
from lib_loraclr.cost import Count, predicted
from lib_loraclr.distill.data import DatasetBuilder, DistillationDataset, DistillSettings, dataset_count
from lib_loraclr.distill.train import loss_weights
from lib_loraclr.model import DifferentiableHost, Phase, Progress

NUMBER = 950  # of the capture's rounds: noise and neutral pictures of its own
MICRO_BATCH_SIZE = 4  # rows a prediction
CACHE_KIND = "evaluation"


@dataclass(frozen=True)
class HeldOutEvaluation:
    """`inputs`: rows on other prompts, seeds and noise than the training's, with the own teacher's prediction.

    `targets` (N + 1, n, c, h, w), float32 on the CPU: x0 as predicted with each single LoRA and, last, by the model.
    """

    inputs: DistillationDataset
    targets: Tensor

    @classmethod
    def build(
        cls,
        host: DifferentiableHost,
        concepts: Sequence[Concept],
        settings: DistillSettings,
        capture: CaptureSettings,
        progress: Progress,
    ) -> HeldOutEvaluation:
        """Draw the pictures and let every single LoRA predict. Call it inside `host.ready()`."""
        few = evaluation_settings(settings)
        progress.phase(Phase.EVALUATE, evaluation_count(len(concepts), settings, capture).steps)
        builder = DatasetBuilder(host, few, capture, progress, NUMBER)
        drawn = replace(capture, preset="full", held_out_prompts=few.pictures, neutral_prompts=few.neutral)
        for concept in concepts:
            run = next(run for run in held_out_runs(concept, concept.deltas, drawn) if run.sampled)
            builder.add(run, concept.deltas)
        for run in neutral_runs(concepts, {}, drawn, NUMBER):
            if run.sampled:
                builder.add(run, {})
        inputs = builder.build()
        targets: list[Tensor] = []
        for deltas in [*(concept.deltas for concept in concepts), {}]:
            targets.append(predictions(host, inputs, deltas))
            progress.step()
        return cls(inputs, torch.stack(targets))

    def scores(self, host: DifferentiableHost, deltas: Mapping[str, Delta]) -> list[ConceptFidelity]:
        """What the update keeps of each concept, in predictions. Call it inside `host.ready()`.

        Energies are mean squares of differences in x0, weighted as the distillation's loss: the "response" of LoRA i is
        what it changes in the model's prediction on its own pictures.
        """
        predicted, base = predictions(host, self.inputs, deltas), self.targets[-1]
        weights = loss_weights(host.sqrt_alphas_cumprod())[list(self.inputs.timesteps)]
        *groups, neutral = self.inputs.groups

        def apart(a: Tensor, b: Tensor, rows: range) -> float:
            squares = (a - b)[rows.start : rows.stop].double().square().mean((1, 2, 3))
            return float((squares * weights[rows.start : rows.stop]).mean())

        energies = [apart(self.targets[i], base, rows) for i, rows in enumerate(groups)]
        reference = sum(energies) / max(1, len(energies))
        drift = apart(predicted, base, neutral)
        scores: list[ConceptFidelity] = []
        for i, rows in enumerate(groups):
            distances = tuple(apart(predicted, self.targets[j], rows) for j in range(len(groups)))
            hits = energies[i] * (distances[i] <= min(distances))
            scores.append(ConceptFidelity(i, energies[i], distances, hits, drift, reference, held_out=True))
        return scores

    def store(self, cache: TensorCache, key: str) -> None:
        """Keep it for another merge of the same LoRAs."""
        inputs, sizes = self.inputs, [len(rows) for rows in self.inputs.groups]
        notes = {"timesteps": list(inputs.timesteps), "prompts": list(inputs.prompts), "sizes": sizes}
        cache.store_tensors(key, CACHE_KIND, {"noisy": inputs.noisy, "targets": self.targets}, notes)

    @classmethod
    def find(cls, cache: TensorCache, key: str) -> HeldOutEvaluation | None:
        """One that was kept; None where there is none, or where it is damaged."""
        stored = cache.find_tensors(key, CACHE_KIND)
        if stored is None:
            return None
        tensors, notes = stored
        try:
            return _restored(tensors["noisy"], tensors["targets"], notes)
        except (KeyError, TypeError, ValueError):
            return None


def _restored(noisy: Tensor, targets: Tensor, notes: Mapping[str, Any]) -> HeldOutEvaluation:
    timesteps, prompts, sizes = notes["timesteps"], notes["prompts"], notes["sizes"]
    if not len(noisy) == len(timesteps) == len(prompts) == sum(sizes) or targets.shape != (len(sizes), *noisy.shape):
        raise ValueError("the parts of the evaluation do not fit together")
    groups: list[range] = []
    for size in sizes:
        first = groups[-1].stop if groups else 0
        groups.append(range(first, first + size))
    by_teacher = torch.cat([targets[i, rows.start : rows.stop] for i, rows in enumerate(groups)])
    return HeldOutEvaluation(DistillationDataset(noisy, by_teacher, timesteps, prompts, groups), targets)


def evaluation_settings(settings: DistillSettings) -> DistillSettings:
    """Pictures and noise levels of the evaluation."""
    return replace(settings, pictures=settings.exam, neutral=2 * settings.exam, levels=settings.exam_levels)


def evaluation_rows(concepts: int, settings: DistillSettings) -> int:
    """Predictions of one model that the evaluation compares."""
    few = evaluation_settings(settings)
    return (concepts * few.pictures + few.neutral) * few.levels


def evaluation_count(concepts: int, settings: DistillSettings, capture: CaptureSettings) -> Count:
    """What `HeldOutEvaluation.build` asks of the model: the pictures, and what each LoRA and the model predict."""
    answers = predicted(evaluation_rows(concepts, settings)) * (concepts + 1)
    return dataset_count(concepts, evaluation_settings(settings), capture) + answers


@torch.no_grad()
def predictions(host: DifferentiableHost, inputs: DistillationDataset, deltas: Mapping[str, Delta]) -> Tensor:
    """x0 (n, c, h, w), float32 on the CPU, that the model predicts with this update; smaller batches if need be."""
    predicted, start, size = list[Tensor](), 0, MICRO_BATCH_SIZE
    with inject(host.layers(), deltas):
        while start < len(inputs.timesteps):
            part = slice(start, start + size)
            try:
                rows = host.predict_x0(inputs.noisy[part], inputs.timesteps[part], inputs.prompts[part])
                predicted.append(rows.float().cpu())
                start += size
                continue
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or size == 1:
                    raise
            release_memory()
            size //= 2
    return torch.cat(predicted)
