"""Second moments on disk with the interface of `SecondMoment`, so that a merge holds one layer's at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lib_loraclr.core.moments import SecondMoment

FORMAT = "loraclr-moments-1"


class StoredMoment(SecondMoment):
    """Sum of one or more stored moments; `total` is read from disk whenever it is asked for, `rows` is known."""

    def __init__(self, parts: Sequence[tuple[MomentFile, str]]) -> None:
        self.parts = tuple(parts)
        self.rows = sum(file.rows[name] for file, name in self.parts)

    def __repr__(self) -> str:
        return f"StoredMoment({[name for _, name in self.parts]}, rows={self.rows})"

    @property
    def total(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Sum of x x^T (in, in), float32 on the CPU."""
        first, *others = self.parts
        total = first[0].read(first[1])
        for file, name in others:
            total += file.read(name)
        return total

    def add(self, inputs: Tensor) -> None:
        """Stored moments do not grow; add another with `plus`."""
        raise TypeError("a stored moment cannot be added to in place")

    def plus(self, other: SecondMoment) -> SecondMoment:
        """Both together; lazily, if both are stored."""
        return StoredMoment(self.parts + other.parts) if isinstance(other, StoredMoment) else super().plus(other)


class MomentFile:
    """One file of moments by layer name. The file stays open, so that a cleaned cache cannot pull it away."""

    def __init__(self, path: Path, keeper: object = None) -> None:
        """Raises OSError or ValueError where the file is not a complete file of moments; `keeper` lives as long."""
        self.path = path
        try:
            self._file: Any = safe_open(path, framework="pt")
            about: dict[str, str] = self._file.metadata() or {}
            if about.get("format") != FORMAT:
                raise ValueError(f"{path.name} is not a file of moments")
            self.rows: dict[str, float] = json.loads(about["rows"])
            self.sizes: dict[str, int] = json.loads(about["sizes"])
            shapes = {name: self._file.get_slice(name).get_shape() for name in self._file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError) as error:
            raise ValueError(str(error)) from error
        self._keeper = keeper  # set after the file, so that it goes after the file is closed
        if {name: _stored_shape(name, size) for name, size in self.sizes.items()} != shapes:
            raise ValueError(f"{path.name} does not hold what its manifest says")

    def read(self, name: str) -> Tensor:
        """The full matrix (in, in), owning its memory (the file's own tensors are views of a shared mapping)."""
        stored: Tensor = self._file.get_tensor(name)
        return unpack(stored, self.sizes[name]) if stored.ndim == 1 else stored.clone()

    def moments(self) -> dict[str, StoredMoment]:
        """Every moment of the file."""
        return {name: StoredMoment([(self, name)]) for name in self.sizes}

    @staticmethod
    def write(path: Path, moments: Mapping[str, SecondMoment], about: Mapping[str, str]) -> None:
        """Write moments with a manifest; the caller renames the file into place."""
        manifest = {
            **about,
            "format": FORMAT,
            "rows": json.dumps({name: moment.rows for name, moment in moments.items()}),
            "sizes": json.dumps({name: len(moment.total) for name, moment in moments.items()}),
        }
        totals = {name: moment.total.float().cpu() for name, moment in moments.items()}
        save_file({name: pack(total) if _symmetric(name) else total for name, total in totals.items()}, path, manifest)


def _symmetric(name: str) -> bool:
    """Whether it is X^T X; "2x5:layer" is X_2^T X_5."""
    pair = name.partition(":")[0].split("x") if ":" in name else ["", ""]
    return pair[0] == pair[-1]


def _stored_shape(name: str, size: int) -> list[int]:
    return [size * (size + 1) // 2] if _symmetric(name) else [size, size]


def pack(full: Tensor) -> Tensor:
    """Symmetric (n, n) -> n (n + 1) / 2 numbers: the upper right block, then both triangles folded into a rectangle."""
    half, odd = len(full) // 2, len(full) % 2
    lower = full[half:, half:].tril()
    if odd:
        fold = lower
        fold[:half, 1:] += full[:half, :half].triu()
    else:
        fold = torch.cat([lower.new_zeros(1, half), lower])
        fold[:half] += full[:half, :half].triu()
    return torch.cat([full[:half, half:].reshape(-1), fold.reshape(-1)])


def unpack(flat: Tensor, size: int) -> Tensor:
    """The inverse of `pack`."""
    half, odd = size // 2, size % 2
    rest = size - half
    block = flat[: half * rest].view(half, rest)
    fold = flat[half * rest :].view(-1, rest)
    upper = (fold[:half, 1:] if odd else fold[:half]).triu()
    lower = (fold if odd else fold[1:]).tril()
    full = flat.new_empty(size, size)
    full[:half, :half] = upper + upper.triu(1).T
    full[half:, half:] = lower + lower.tril(-1).T
    full[:half, half:], full[half:, :half] = block, block.T
    return full
