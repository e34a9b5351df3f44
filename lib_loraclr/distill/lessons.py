"""What the teachers say: noisy pictures of every concept, and what the model with that one LoRA makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lib_loraclr.capture import CaptureConcept, CaptureSettings, inject
from lib_loraclr.capture.gather import Run, picture_size
from lib_loraclr.capture.run import concept_runs, neutral_runs
from lib_loraclr.core.deltas import Delta
from lib_loraclr.distill.settings import DistillSettings
from lib_loraclr.model import DifferentiableHost, Progress, SampleRequest

ROUND = 900  # of the capture's prompts and seeds: pictures that no capture has watched


@dataclass(frozen=True)
class Lessons:
    """Rows of what is to be learned, float32 on the CPU.

    `noisy` and `clean` (n, c, h, w): a noisy latent and the x0 that the teacher predicts from it; `steps[k]`: its
    training step; `prompts[k]`; `groups`: rows of each concept, in order, and of the model without a LoRA last.
    """

    noisy: Tensor
    clean: Tensor
    steps: Sequence[int]
    prompts: Sequence[str]
    groups: Sequence[range]


def sampled_steps(concepts: int, settings: DistillSettings, capture: CaptureSettings) -> int:
    """Steps of progress that `record` makes: sampling steps, and one for every batch of predictions."""
    pictures = [settings.pictures] * concepts + [settings.neutral]
    return sum(-(-count // capture.batch) * (capture.steps + settings.levels) for count in pictures)


def record(
    host: DifferentiableHost,
    concepts: Sequence[CaptureConcept],
    settings: DistillSettings,
    capture: CaptureSettings,
    progress: Progress,
) -> Lessons:
    """Draw pictures with each single LoRA, noise them, and note what the model with that LoRA predicts.

    Call it inside `host.ready()`; LoRAs are injected by hooks, which are gone afterwards.
    """
    rows = LessonMaker(host, settings, capture, progress)
    # the text's templates are more than those of pictures: scenes that are never asked for are forgotten
    drawn = replace(capture, prompts=settings.pictures, preset="full", sample_templates=capture.text_templates)
    for concept in concepts:
        run = next(run for run in concept_runs(concept, concept.deltas, drawn, ROUND) if run.sampled)
        rows.add(run, concept.deltas)
    base = replace(capture, neutral_prompts=settings.neutral, preset="full")
    for run in neutral_runs(concepts, {}, base, ROUND):
        if run.sampled:
            rows.add(run, {}, every_second_empty=True)  # guidance asks the empty prompt at every step
    return rows.lessons()


class LessonMaker:
    """Lessons in the making; `number` is that of the capture's rounds, for seeds that no other has."""

    def __init__(
        self,
        host: DifferentiableHost,
        settings: DistillSettings,
        capture: CaptureSettings,
        progress: Progress,
        number: int = ROUND,
    ) -> None:
        self.host, self.settings, self.capture, self.progress = host, settings, capture, progress
        self.generator = torch.Generator().manual_seed(capture.seed + number)
        self.signal = host.signal().double()
        self.noisy: list[Tensor] = []
        self.clean: list[Tensor] = []
        self.steps: list[int] = []
        self.prompts: list[str] = []
        self.groups: list[range] = []

    def add(self, run: Run, deltas: Mapping[str, Delta], *, every_second_empty: bool = False) -> None:
        """One more group."""
        first = len(self.steps)
        with inject(self.host.layers(), deltas):
            for start in range(0, len(run.prompts), self.capture.batch):
                part = slice(start, start + self.capture.batch)
                request = SampleRequest(
                    run.prompts[part], run.seeds[part], self.capture.steps, picture_size(self.host, self.capture),
                    self.settings.cfg_scale, sampler=self.capture.sampler,
                )  # fmt: skip
                latents = self.host.sample(request, self.progress).float().cpu()
                for level in range(self.settings.levels):
                    empty = every_second_empty and level % 2
                    self._predict(latents, [""] * len(latents) if empty else request.prompts)
                    self.progress.step()
        self.groups.append(range(first, len(self.steps)))

    def _predict(self, latents: Tensor, prompts: Sequence[str]) -> None:
        """One noise level for every picture, each from a slice of its own of the schedule."""
        count, total = len(latents), len(self.signal)
        place = torch.randperm(count, generator=self.generator) + torch.rand(count, generator=self.generator)
        steps = [min(total - 1, int(value)) for value in place / count * total]
        alpha = self.signal[steps].view(-1, 1, 1, 1)
        noise = torch.randn(latents.shape, generator=self.generator)
        noisy = (alpha * latents + (1 - alpha**2).sqrt() * noise).float()
        self.noisy.append(noisy)
        self.clean.append(self.host.predict(noisy, steps, prompts).float().cpu())
        self.steps += steps
        self.prompts += prompts

    def lessons(self) -> Lessons:
        """All of them."""
        return Lessons(torch.cat(self.noisy), torch.cat(self.clean), self.steps, self.prompts, self.groups)
