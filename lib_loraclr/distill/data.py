"""Teacher targets: noisy pictures of every concept, and what the model with that one LoRA predicts from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lib_loraclr.capture import CaptureSettings, Concept, inject
from lib_loraclr.capture.gather import Run, picture_size
from lib_loraclr.capture.run import concept_runs, neutral_runs
from lib_loraclr.core.deltas import Delta
from lib_loraclr.cost import Count, taught
from lib_loraclr.model import DifferentiableHost, Progress, SampleRequest
from lib_loraclr.options import check, option

ROUND = 900  # of the capture's prompts and seeds: pictures that no capture has watched


@dataclass(frozen=True)
class DistillationDataset:
    """Rows of what is to be learned, float32 on the CPU.

    `noisy` and `targets` (n, c, h, w): a noisy latent and the x0 that the teacher predicts from it; `timesteps[k]` and
    `prompts[k]` of row k; `groups`: rows of each concept, in order, and of the model without a LoRA last.
    """

    noisy: Tensor
    targets: Tensor
    timesteps: Sequence[int]
    prompts: Sequence[str]
    groups: Sequence[range]


def dataset_count(concepts: int, settings: DistillSettings, capture: CaptureSettings) -> Count:
    """What `build_dataset` asks of the model."""
    pictures = [settings.pictures] * concepts + [settings.neutral]
    guided = settings.cfg_scale != 1.0
    counts = [
        taught(count, steps=capture.steps, batch=capture.batch, levels=settings.levels, guided=guided)
        for count in pictures
    ]
    return sum(counts, Count())


def build_dataset(
    host: DifferentiableHost,
    concepts: Sequence[Concept],
    settings: DistillSettings,
    capture: CaptureSettings,
    progress: Progress,
) -> DistillationDataset:
    """Pictures by each single LoRA, and by the model alone on neutral prompts, every picture at many noise levels.

    Call it inside `host.ready()`.
    """
    builder = DatasetBuilder(host, settings, capture, progress)
    # the capture's many templates, not the few of its pictures: scenes that are not in here are forgotten
    drawn = replace(capture, prompts=settings.pictures, preset="full", sample_templates=capture.text_templates)
    for concept in concepts:
        run = next(run for run in concept_runs(concept, concept.deltas, drawn, ROUND) if run.sampled)
        builder.add(run, concept.deltas)
    base = replace(capture, neutral_prompts=settings.neutral, preset="full")
    for run in neutral_runs(concepts, {}, base, ROUND):
        if run.sampled:
            builder.add(run, {}, every_second_empty=True)  # guidance asks the empty prompt at every step
    return builder.build()


class DatasetBuilder:
    """A dataset in the making; `number` is that of the capture's rounds, for seeds that no other has."""

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
        self.sqrt_alphas_cumprod = host.sqrt_alphas_cumprod().double()
        self.noisy: list[Tensor] = []
        self.targets: list[Tensor] = []
        self.timesteps: list[int] = []
        self.prompts: list[str] = []
        self.groups: list[range] = []

    def add(self, run: Run, deltas: Mapping[str, Delta], *, every_second_empty: bool = False) -> None:
        """One more group."""
        first = len(self.timesteps)
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
        self.groups.append(range(first, len(self.timesteps)))

    def build(self) -> DistillationDataset:
        """All groups together."""
        return DistillationDataset(
            torch.cat(self.noisy), torch.cat(self.targets), self.timesteps, self.prompts, self.groups
        )

    def _predict(self, latents: Tensor, prompts: Sequence[str]) -> None:
        """One noise level for every picture, each from a slice of its own of the schedule."""
        count, total = len(latents), len(self.sqrt_alphas_cumprod)
        place = torch.randperm(count, generator=self.generator) + torch.rand(count, generator=self.generator)
        timesteps = [min(total - 1, int(value)) for value in place / count * total]
        alpha = self.sqrt_alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        noise = torch.randn(latents.shape, generator=self.generator)
        noisy = (alpha * latents + (1 - alpha**2).sqrt() * noise).float()
        self.noisy.append(noisy)
        self.targets.append(self.host.predict_x0(noisy, timesteps, prompts).float().cpu())
        self.timesteps += timesteps
        self.prompts += prompts


DISTILLATION = "How the merge learns"  # title of the group


@dataclass(frozen=True)
class DistillSettings:
    """How long and on what the merged LoRA learns.

    The text encoder goes slower in a long run because everybody's prompts go through it. `rate` falls to 0 in a
    straight line. Pictures are drawn with `cfg_scale`: what users see, not what the conditional branch alone draws.
    Raises InputError "bad-option" with the attribute's name as key.
    """

    total_steps: int = option(
        0, "Steps of descent for all LoRAs together; 0 is no distillation.", 0, aliases=("steps",)
    )
    text_encoder_slowdown_after: int = option(
        400, "Preset distilled: in more steps than these, of all LoRAs together, the text encoder learns slower.",
        0, 100000, group=DISTILLATION, aliases=("text_steps",),
    )  # fmt: skip
    rate: float = option(0.03, "First step of every factor, as a share of its root mean square.", 0.0)
    batch_size: int = option(12, "Predictions compared in a step.", 1, aliases=("rows",))
    neutral_every: int = option(4, "Every so many predictions one is of the model without a LoRA.", 1)
    pictures: int = option(16, "Pictures drawn by each single LoRA.", 0)
    neutral: int = option(32, "Pictures drawn by the model alone.", 0)
    levels: int = option(16, "How often each picture is noised.", 1)
    cfg_scale: float = option(4.0, "Of the pictures.", 1.0, 30.0)
    exam: int = option(2, "Pictures a concept that tell afterwards how much was kept.", 0)
    exam_levels: int = option(8, "How often each of those is noised.", 1)

    def __post_init__(self) -> None:
        """Checks every attribute."""
        check(self)
