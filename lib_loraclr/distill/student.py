"""A LoRA that learns: factors with gradients, acting on a model by hooks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lib_loraclr.core.deltas import Delta, LowRank
from lib_loraclr.core.linalg import balanced
from lib_loraclr.core.response import respond


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
