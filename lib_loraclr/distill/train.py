"""`distill`: descent on the difference between what the merged LoRA and each single LoRA make the model predict."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from lib_loraclr.core.deltas import Delta, LowRank
from lib_loraclr.core.errors import InputError, out_of_memory, release_memory
from lib_loraclr.core.linalg import balanced, exact_float32
from lib_loraclr.core.response import respond
from lib_loraclr.cost import Count, learned
from lib_loraclr.distill.data import DistillationDataset, DistillSettings
from lib_loraclr.model import DifferentiableHost, Progress

WARM_UP = 10  # steps in which Adam's second moments find their size
GAMMA, FLOOR = 5.0, 0.5


@dataclass(frozen=True)
class Distilled:
    """The learned update, and the loss of every step."""

    deltas: Mapping[str, LowRank]
    losses: Sequence[float]


def learning_count(settings: DistillSettings) -> Count:
    """What `distill` asks of the model."""
    return learned(settings.total_steps, settings.batch_size)


def loss_weights(sqrt_alphas_cumprod: Tensor) -> Tensor:
    """Weight of the squared error of x0 at every timestep: min(SNR, 5) + 0.5, (timesteps,) float32.

    The first term is Min-SNR (Hang et al. 2023). It asks for next to nothing in the noisiest steps, where the prompt
    decides who is in the picture; the floor is what a loss on v has there.
    """
    snr = sqrt_alphas_cumprod**2 / (1 - sqrt_alphas_cumprod**2)
    return (snr.clamp(max=GAMMA) + FLOOR).float()


def distill(
    host: DifferentiableHost,
    start: Mapping[str, Delta],
    dataset: DistillationDataset,
    settings: DistillSettings,
    progress: Progress,
    *,
    seed: int = 0,
) -> Distilled:
    """Adam from `start` on `settings.total_steps` batches of the dataset, concepts and neutral rows in fixed shares.

    Call it inside `host.ready()`. Whatever `progress` raises to cancel passes through; hooks are gone afterwards, and
    the model's weights are never touched. Where the memory does not suffice, a step is made in halves of its rows.
    Raises InputError "no-gradients".
    """
    student = Student(host.layers(), start, host.info.device)
    weights = loss_weights(host.sqrt_alphas_cumprod())
    order, micro_batch_size, losses = _Order(dataset.groups, settings, seed), settings.batch_size, list[float]()
    factors, sizes = student.parameters(), learning_rates(student, settings)
    adam = torch.optim.Adam([{"params": [f], "lr": s} for f, s in zip(factors, sizes, strict=True)], betas=(0.9, 0.99))
    scale = LossScale(host.info.dtype)
    with exact_float32(), torch.enable_grad(), student.acting():
        for step in range(settings.total_steps):
            rows = order.next()
            loss, micro_batch_size = _backward(host, dataset, rows, weights, micro_batch_size, adam, scale.value)
            losses.append(loss)
            if step == 0:
                _check_reach(student)
            for group, size in zip(adam.param_groups, sizes, strict=True):
                group["lr"] = size * min(1.0, (step + 1) / WARM_UP) * (1 - step / settings.total_steps)
            if scale.undo(factors):
                adam.step()
            progress.step(f"{loss:.4f}")
    return Distilled(student.deltas(), losses)


def learning_rates(student: Student, settings: DistillSettings) -> list[float]:
    """Of every factor, in the order of `student.parameters()`: its root mean square times the rate of its part."""
    text = settings.rate * min(1.0, settings.text_encoder_slowdown_after / max(1, settings.total_steps))
    rates: list[float] = []
    for name, pair in student.factors.items():
        rate = text if name.startswith("text_encoder") else settings.rate
        rates += [rate * float(factor.detach().square().mean().sqrt()) for factor in pair]
    return rates


def _check_reach(student: Student) -> None:
    """Raise InputError "no-gradients" where the UNet's layers are cut off, as an attention made for pictures only does.

    Text encoders have layers that run and are not used: clip skip.
    """
    if any(name.startswith("unet.") for name in student.unreached()):
        message = "Gradients do not get through this program's attention; choose another one, or use the command line."
        raise InputError("no-gradients", message, key="preset")


class LossScale:
    """A power of two on the loss, so that gradients stay in the range of the model's numbers.

    In float16 they would vanish (Micikevicius et al. 2018). In wider formats they only get subnormal, where attention
    hardly looks; but CPUs work on subnormal numbers many times slower.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.narrow = dtype == torch.float16
        self.value = 2.0**12 if self.narrow else 2.0**40

    def undo(self, factors: Sequence[Tensor]) -> bool:
        """Take the factor out of the gradients. False where they overflowed: the next step's factor is half of it."""
        gradients = [factor.grad for factor in factors if factor.grad is not None]
        if self.narrow and gradients and not bool(torch.stack([g.isfinite().all() for g in gradients]).all()):
            self.value = max(1.0, self.value / 2)
            return False
        for gradient in gradients:
            gradient /= self.value
        return True


class _Order:
    """Which rows a step learns from: concepts in turn, every `neutral_every`-th of the model alone; shuffled decks."""

    def __init__(self, groups: Sequence[range], settings: DistillSettings, seed: int) -> None:
        self.groups, self.settings, self.turn = groups, settings, 0
        self.generator = torch.Generator().manual_seed(seed)
        self.decks: list[list[int]] = [[] for _ in groups]

    def next(self) -> list[int]:
        """Rows of one step."""
        concepts = len(self.groups) - 1  # the last group is the model without a LoRA
        rows: list[int] = []
        for place in range(self.settings.batch_size):
            if concepts and place % self.settings.neutral_every:
                rows.append(self._draw(self.turn % concepts))
                self.turn += 1
            else:
                rows.append(self._draw(concepts))
        return rows

    def _draw(self, group: int) -> int:
        if not self.decks[group]:
            rows = self.groups[group]
            self.decks[group] = [rows[k] for k in torch.randperm(len(rows), generator=self.generator).tolist()]
        return self.decks[group].pop()


def _backward(
    host: DifferentiableHost, dataset: DistillationDataset, rows: Sequence[int], weights: Tensor, micro_batch_size: int,
    adam: torch.optim.Optimizer, scale: float,
) -> tuple[float, int]:  # fmt: skip
    """Gradients of `scale` times the mean loss of the rows; the loss, and the batch size that the memory held."""
    while True:
        adam.zero_grad()
        try:
            remaining, total = iter(rows), 0.0
            while part := list(islice(remaining, micro_batch_size)):
                loss = _loss(host, dataset, part, weights) / len(rows)
                (scale * loss).backward()
                total += float(loss.detach())
            return total, micro_batch_size
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or micro_batch_size == 1:
                raise
        release_memory()
        micro_batch_size = max(1, micro_batch_size // 2)


def _loss(host: DifferentiableHost, dataset: DistillationDataset, rows: Sequence[int], weights: Tensor) -> Tensor:
    """Sum over rows of the weighted mean squared error of x0."""
    timesteps, targets = [dataset.timesteps[k] for k in rows], dataset.targets[list(rows)]
    predicted = host.predict_x0(dataset.noisy[list(rows)], timesteps, [dataset.prompts[k] for k in rows])
    errors = (predicted - targets.to(predicted)).square().mean((1, 2, 3))
    return (errors * weights[timesteps].to(errors)).sum()


class Student:
    """Float32 factors of every layer on the model's device; ranks stay what they are."""

    def __init__(self, modules: Mapping[str, nn.Module], deltas: Mapping[str, Delta], device: torch.device) -> None:
        self.modules = modules
        self.factors: dict[str, tuple[Tensor, Tensor]] = {}
        self.called: set[str] = set()
        for name, delta in deltas.items():
            start = factored(delta)
            pair = (start.up, start.down)
            up, down = (f.to(device, torch.float32, copy=True).requires_grad_(True) for f in pair)
            self.factors[name] = (up, down)

    @contextmanager
    def acting(self) -> Generator[None]:
        """Scope in which the model answers with the student, and gradients reach its factors."""
        with ExitStack() as stack:
            for name in self.factors:
                stack.callback(self.modules[name].register_forward_hook(self._addition(name)).remove)
            yield

    def unreached(self) -> list[str]:
        """Layers that were called but that the last backward call gave no gradient."""
        return [name for name in sorted(self.called) if self.factors[name][0].grad is None]

    def parameters(self) -> list[Tensor]:
        """Every factor."""
        return [factor for pair in self.factors.values() for factor in pair]

    def deltas(self) -> dict[str, LowRank]:
        """What was learned, float32 on the CPU."""
        return {
            name: balanced(LowRank(up.detach().cpu(), down.detach().cpu())) for name, (up, down) in self.factors.items()
        }

    def _addition(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            self.called.add(name)
            hidden: Tensor = inputs[0]
            up, down = (factor.to(hidden.dtype) for factor in self.factors[name])
            return output + respond(module, hidden, (down, up)).to(output.dtype)

        return hook


def factored(delta: Delta) -> LowRank:
    """The delta as two factors whose entries are about equally large."""
    if isinstance(delta, LowRank):
        return balanced(delta)
    u, s, vt = torch.linalg.svd(delta.weight.double(), full_matrices=False)
    root = s.sqrt()
    return LowRank((u * root).to(delta.weight), (root[:, None] * vt).to(delta.weight))
