"""Forward hooks: add LoRAs to a running model, and watch what its layers are given.

Hooks work on any host (quantised, offloaded or inference-mode weights), never touch a weight and always go away again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import ref

import torch.nn.functional as F
from torch import Tensor, nn

from lib_loraclr.core.deltas import Delta
from lib_loraclr.core.errors import InputError
from lib_loraclr.core.response import Response, is_convolution, pair, unfolded_shape

Receiver = Callable[[str, nn.Module, Tensor], None]
AddingHook = Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]


@contextmanager
def inject(modules: Mapping[str, nn.Module], deltas: Mapping[str, Delta], weight: float = 1.0) -> Generator[None]:
    """Scope in which `weight * deltas[name]` acts on layer `name`; scopes nest and add up.

    The layer's output gains F.linear or F.conv2d of the factors, in the input's dtype and on its device.
    Raises InputError "unknown-layer" or "shape-mismatch" before anything is hooked.
    """
    additions = {name: _addition(name, _module(modules, name), delta, weight) for name, delta in deltas.items()}
    with ExitStack() as stack:
        if weight != 0.0:
            for name, addition in additions.items():
                stack.callback(modules[name].register_forward_hook(addition).remove)
        yield


@contextmanager
def collect(modules: Mapping[str, nn.Module], names: Sequence[str], receive: Receiver) -> Generator[None]:
    """Scope in which `receive(name, module, input)` is called before every call of the named layers.

    The input is the layer's own tensor: a receiver that keeps it must copy it, because hosts add in place.
    """

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            receive(name, module, inputs[0] if inputs else kwargs["input"])

        return hook

    with ExitStack() as stack:
        for name in names:
            stack.callback(_module(modules, name).register_forward_pre_hook(watch(name), with_kwargs=True).remove)
        yield


class SharedInputs:
    """A receiver for one dry pass: finds layers that are given the very same tensors (q, k, v; all K/V of a context).

    Weak references, so nothing is kept alive for it; a tensor changed in place between two layers is not the same.
    """

    def __init__(self) -> None:
        self._calls: dict[str, list[int]] = {}  # layer -> numbers of the tensors it was given, call by call
        self._seen: dict[int, tuple[ref[Tensor], int, int]] = {}  # id -> tensor, version, number
        self._count = 0

    def __call__(self, name: str, module: nn.Module, inputs: Tensor) -> None:
        """Note which tensor this call was given."""
        version = 0 if inputs.is_inference() else inputs._version
        seen = self._seen.get(id(inputs))
        if seen is None or seen[0]() is not inputs or seen[1] != version:
            self._count += 1
            seen = self._seen[id(inputs)] = (ref(inputs), version, self._count)
        self._calls.setdefault(name, []).append(seen[2])

    def leaders(self) -> dict[str, str]:
        """Layer that was called -> the first layer that was given the same tensors (often itself)."""
        first: dict[tuple[int, ...], str] = {}
        return {name: first.setdefault(tuple(numbers), name) for name, numbers in self._calls.items()}


def input_features(module: nn.Module) -> int:
    """Columns of a layer's unfolded weight."""
    return unfolded_shape(module)[1]


def input_rows(module: nn.Module, inputs: Tensor) -> Tensor:
    """Inputs (n, ..., in) of a linear layer as they are; of a convolution, its patches (n, positions, in)."""
    if not is_convolution(module):
        return inputs
    kernel = pair(module.kernel_size)
    if kernel == (1, 1) and pair(module.stride) == (1, 1):
        return inputs.flatten(2).transpose(1, 2)
    padding: Any = module.padding
    if isinstance(padding, str):
        wanted = [d * (k - 1) if padding == "same" else 0 for k, d in zip(kernel, pair(module.dilation), strict=True)]
        inputs = F.pad(inputs, [wanted[1] // 2, wanted[1] - wanted[1] // 2, wanted[0] // 2, wanted[0] - wanted[0] // 2])
        padding = 0
    return F.unfold(inputs, kernel, pair(module.dilation), padding, pair(module.stride)).transpose(1, 2)


def _addition(name: str, module: nn.Module, delta: Delta, weight: float) -> AddingHook:
    """The forward hook of one delta."""
    response = Response(name, module, delta, weight)

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return output + response(module, inputs[0]).to(output.dtype)

    return hook


def _module(modules: Mapping[str, nn.Module], name: str) -> nn.Module:
    if name not in modules:
        raise InputError("unknown-layer", f"The loaded model has no layer {name}.", key=name)
    return modules[name]
