"""The tensors of one layer of a LoRA file, read on demand, and what all updates share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from lib_loraclr.core.deltas import Delta, LayerShape
from lib_loraclr.core.errors import InputError
from lib_loraclr.formats.safetensors_io import SafetensorsFile

_EXTRAS = ("alpha", "scale", "dora_scale", "magnitude", "diff_b")


class Source(Protocol):
    """Where tensors come from."""

    @property
    def path(self) -> Path: ...

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape without reading the values."""
        ...

    def read(self, key: str) -> Tensor:
        """The values, on the CPU."""
        ...


@dataclass(frozen=True)
class FileSource:
    """Tensors of a safetensors file, read when asked for, so that many files cost no memory."""

    file: SafetensorsFile

    @property
    def path(self) -> Path:
        """The file."""
        return self.file.path

    def shape(self, key: str) -> tuple[int, ...]:
        """From the header."""
        return self.file.tensors[key].shape

    def read(self, key: str) -> Tensor:
        """From the file."""
        return self.file.read(key)


@dataclass(frozen=True)
class MemorySource:
    """Tensors that are in memory already."""

    path: Path
    tensors: Mapping[str, Tensor]

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(self.tensors[key].shape)

    def read(self, key: str) -> Tensor:
        """The tensor."""
        return self.tensors[key]


@dataclass(frozen=True)
class Parts:
    """The tensors of one layer by their part name ("lora_up", "alpha" ...).

    `configured` gives the scale for a rank where the file leaves that to a configuration.
    """

    source: Source
    module: str
    keys: Mapping[str, str]
    configured: Callable[[int | None], float | None] | None = None

    def __contains__(self, part: str) -> bool:
        return part in self.keys

    def shape(self, part: str) -> tuple[int, ...]:
        """Shape of a part."""
        return self.source.shape(self.keys[part])

    def read(self, part: str) -> Tensor:
        """A part in float32."""
        return self.source.read(self.keys[part]).to(torch.float32)

    def matrix(self, part: str) -> Tensor:
        """A part as (first axis, all others)."""
        return self.read(part).flatten(1)

    def scalar(self, part: str) -> float | None:
        """A part of one number, None if it is not there."""
        return float(self.read(part).flatten()[0]) if part in self.keys else None

    def scale(self, rank: int | None) -> float:
        """alpha / rank, 1 where the file has no alpha or the family no rank; a `scale` tensor wins, as in A1111."""
        explicit, alpha = self.scalar("scale"), self.scalar("alpha")
        if explicit is None and alpha is None and self.configured is not None:
            explicit = self.configured(rank)
        if explicit is not None:
            return explicit
        return 1.0 if alpha is None or rank is None else alpha / rank

    def require(self, *parts: str) -> None:
        """Raise InputError for the first part that is missing."""
        for part in parts:
            if part not in self.keys:
                other = min(self.keys, key=lambda name: (name in _EXTRAS, name))
                raise self.error("incomplete-layer", f"'{self.module}' has '{other}' without '{part}'", other)

    def require_numbers(self, *parts: str) -> None:
        """Raise InputError for the first of these parts that is there and not one number."""
        for part in parts:
            if part in self.keys and math.prod(self.shape(part)) != 1:
                text = f"'{self.keys[part]}' {list(self.shape(part))} should be one number"
                raise self.error("bad-shape", text, part)

    def require_axes(self, *parts: str, counts: tuple[int, ...] = (2, 4)) -> None:
        """Raise InputError for the first of these parts that is there and empty or of another number of axes."""
        for part in parts:
            if part in self.keys and (len(self.shape(part)) not in counts or 0 in self.shape(part)):
                kind = "matrix or convolution" if counts == (2, 4) else f"tensor of {counts[-1]} axes"
                raise self.error("bad-shape", f"'{self.keys[part]}' {list(self.shape(part))} is not a {kind}", part)

    def require_point(self, part: str) -> None:
        """Raise InputError if a part is a convolution with a kernel larger than 1x1."""
        if math.prod(self.shape(part)[2:]) != 1:
            text = f"'{self.keys[part]}' {list(self.shape(part))} is not a 1x1 convolution"
            raise self.error("bad-shape", text, part)

    def require_equal(self, what: str, first: tuple[str, int], second: tuple[str, int]) -> None:
        """Raise InputError unless two axes agree; an axis is (part, number)."""
        if self.shape(first[0])[first[1]] != self.shape(second[0])[second[1]]:
            shapes = " and ".join(f"'{self.keys[part]}' {list(self.shape(part))}" for part, _ in (first, second))
            raise self.error(f"{what}-mismatch", f"the {what}s of {shapes} do not match", second[0])

    def error(self, code: str, text: str, part: str) -> InputError:
        """An InputError about this file and the key of `part`."""
        path = self.source.path
        return InputError(code, f"{path.name}: {text}.", file=str(path), key=self.keys.get(part, self.module))


class Update(ABC):
    """One layer of a LoRA file.

    `size` is (out, in) of the unfolded dW, None where the file does not tell; `kernel` is (kh, kw) where the file shows
    it, else empty.
    """

    kind: str
    needs_base: bool = False
    rank: int | None = None
    size: tuple[int | None, int | None] = (None, None)
    kernel: tuple[int, ...] = ()

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    @classmethod
    @abstractmethod
    def claims(cls, parts: Parts) -> bool:
        """Whether the tensors are of this family."""

    @abstractmethod
    def delta(self, base: Tensor | None = None) -> Delta:
        """The true dW in float32 at weight 1; `base` is the layer's weight, required where `needs_base`."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys in the file."""
        return tuple(self.parts.keys.values())

    def require_base(self, base: Tensor | None) -> Tensor:
        """`base` in float32; InputError without one."""
        if base is None:
            message = f"'{self.parts.module}' is of type {self.kind}, which needs the checkpoint's weight"
            raise self.parts.error("needs-checkpoint", message, next(iter(self.parts.keys)))
        return base.detach().to("cpu", torch.float32)

    def check_fits(self, shape: LayerShape) -> None:
        """Raise InputError if dW cannot be added to a layer of this shape."""
        wanted = (shape.out_features, shape.in_features)
        if any(have not in (None, want) for have, want in zip(self.size, wanted, strict=True)):
            have = " x ".join("any" if n is None else str(n) for n in self.size)
            text = f"'{self.parts.module}' is {have}, the checkpoint's layer is {wanted[0]} x {wanted[1]}"
            raise self.parts.error("shape-mismatch", text, next(iter(self.parts.keys)))


def flat_size(shape: tuple[int, ...]) -> int:
    """Number of columns when a tensor is unfolded to (first axis, all others)."""
    return math.prod(shape[1:])
