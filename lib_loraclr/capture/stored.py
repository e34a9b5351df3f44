"""Second moments on disk with the interface of `SecondMoment`, so that a merge holds one layer's at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib_loraclr.core.moments import SecondMoment
from lib_loraclr.formats.safetensors_io import SafetensorsFile, atomic_path, write_safetensors

FORMAT = "loraclr-moments-2"  # 1 was float32 throughout
TENSORS = "loraclr-1-"

PRECISIONS = {"F32": torch.float32, "F64": torch.float64}


class StoredMoment(SecondMoment):
    """Sum of one or more stored moments; `total` is read from disk whenever it is asked for, `rows` is known."""

    def __init__(self, parts: Sequence[tuple[MomentFile, str]]) -> None:
        self.parts = tuple(parts)
        self.rows = sum(file.rows[name] for file, name in self.parts)

    def __repr__(self) -> str:
        return f"StoredMoment({[name for _, name in self.parts]}, rows={self.rows})"

    @property
    def total(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Sum of x x^T (in, in) on the CPU, as precise as it was captured."""
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
    """One file of moments by layer name. It stays open (without a memory map, which would count as used memory), so
    that a cleaned cache cannot pull it away.
    """

    def __init__(self, path: Path, keeper: object = None) -> None:
        """Raises InputError, OSError or ValueError where the file is not one of moments; `keeper` lives as long."""
        file = SafetensorsFile.open(path)
        if file.metadata.get("format") != FORMAT:
            raise ValueError(f"{path.name} is not a file of moments")
        self.path = path
        self.rows: dict[str, float] = json.loads(file.metadata["rows"])
        self.sizes: dict[str, int] = json.loads(file.metadata["sizes"])
        if any(info.dtype not in PRECISIONS for info in file.tensors.values()):
            raise ValueError(f"{path.name} holds moments of another precision")
        shapes = {name: info.shape for name, info in file.tensors.items()}
        if {name: (size * (size + 1) // 2,) for name, size in self.sizes.items()} != shapes:
            raise ValueError(f"{path.name} does not hold what its manifest says")
        self._ranges = {name: (info.begin, info.end) for name, info in file.tensors.items()}
        self._dtypes = {name: PRECISIONS[info.dtype] for name, info in file.tensors.items()}
        self._stream = path.open("rb")
        self._keeper = keeper  # set after the stream, so that a temporary folder goes after the file is closed

    def read(self, name: str) -> Tensor:
        """The full matrix (in, in) on the CPU, float64 or float32."""
        begin, end = self._ranges[name]
        data = bytearray(end - begin)
        self._stream.seek(begin)
        self._stream.readinto(data)
        return unpack(torch.frombuffer(data, dtype=self._dtypes[name]), self.sizes[name])

    def moments(self) -> dict[str, StoredMoment]:
        """Every moment of the file."""
        return {name: StoredMoment([(self, name)]) for name in self.sizes}

    @staticmethod
    def write(path: Path, moments: dict[str, SecondMoment], about: Mapping[str, str]) -> None:
        """Write moments with a manifest, atomically. `moments` is emptied on the way: nothing is held twice."""
        rows = {name: moment.rows for name, moment in moments.items()}
        sizes = {name: len(moment.total) for name, moment in moments.items()}
        manifest = {**about, "format": FORMAT, "rows": json.dumps(rows), "sizes": json.dumps(sizes)}
        tensors: dict[str, Tensor] = {}
        while moments:
            name, moment = moments.popitem()
            tensors[name] = pack(moment.total.cpu())
        with atomic_path(path, overwrite=True) as unfinished:
            write_safetensors(unfinished, tensors, manifest)


def write_tensors(path: Path, kind: str, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """Write tensors of a kind ("factors") with notes, JSON data, atomically."""
    with atomic_path(path, overwrite=True) as unfinished:
        write_safetensors(unfinished, tensors, {"format": TENSORS + kind, "notes": json.dumps(notes)})


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and notes. Raises InputError, OSError or ValueError where the file is not one of this kind."""
    file = SafetensorsFile.open(path)
    if file.metadata.get("format") != TENSORS + kind:
        raise ValueError(f"{path.name} is not a file of {kind}")
    return {name: file.read(name) for name in file.tensors}, json.loads(file.metadata.get("notes", ""))


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
