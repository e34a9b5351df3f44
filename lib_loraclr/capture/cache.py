"""Tensors on disk: what has been captured or learned once for LoRAs, checkpoint and settings stays known."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, uint8

from lib_loraclr.capture.stored import FORMAT, MomentFile, StoredMoment, read_tensors, write_tensors
from lib_loraclr.core.deltas import Delta, LowRank
from lib_loraclr.core.errors import InputError
from lib_loraclr.core.moments import SecondMoment


class TensorCache:
    """A folder of moment files, `<key>-<layers>.safetensors`, written atomically; the least recently used go first.

    Other tensors are `<key>-<kind>.safetensors`. The key says everything that decides the numbers, so a stale entry
    cannot be found. Unreadable files are ignored and replaced. Files that this object has handed out are never evicted
    by it.
    """

    def __init__(self, folder: Path, *, limit_mib: int | None = 16384) -> None:
        self.folder, self.limit_mib = Path(folder), limit_mib
        self._temporary: TemporaryDirectory[str] | None = None
        self._used: set[Path] = set()

    @classmethod
    def temporary(cls) -> TensorCache:
        """A cache that is deleted when the last of its moments is gone."""
        folder: TemporaryDirectory[str] = TemporaryDirectory(prefix="loraclr-", ignore_cleanup_errors=True)
        cache = cls(Path(folder.name), limit_mib=None)
        cache._temporary = folder
        return cache

    @staticmethod
    def default_folder() -> Path:
        """LORACLR_CACHE, else the user's cache folder."""
        folder = os.environ.get("LORACLR_CACHE")
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(folder) if folder else Path(base) / "sd-webui-loraclr"

    def find(self, key: str) -> dict[str, StoredMoment]:
        """Every stored moment of this key by layer name; empty where there is none."""
        moments: dict[str, StoredMoment] = {}
        for path in sorted(self.folder.glob(f"{key}-*.safetensors")):
            with contextlib.suppress(OSError, ValueError, InputError):
                moments |= self._open(path).moments()
        return moments

    def store(self, key: str, moments: dict[str, SecondMoment], about: Mapping[str, object]) -> dict[str, StoredMoment]:
        """Write the moments of one key, which empties `moments`, and return them as stored ones.

        `about` is for people who look into the file. Raises InputError where the folder cannot be written or is full.
        """
        self._make_folder()
        layers = hashlib.sha256("\n".join(sorted(moments)).encode()).hexdigest()[:12]
        path = self.folder / f"{key}-{layers}.safetensors"
        MomentFile.write(path, moments, {"about": json.dumps(about, sort_keys=True)})
        stored = self._open(path).moments()
        self._evict()
        return stored

    def find_tensors(self, key: str, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors (CPU) of this key and what was noted with them; None where there are none that can be read."""
        path = self._named(key, kind)
        try:
            tensors_and_notes = read_tensors(path, kind)
        except (OSError, ValueError, InputError):
            return None
        self._use(path)
        return tensors_and_notes

    def store_tensors(self, key: str, kind: str, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """Write tensors of one key with notes (JSON data). Raises InputError where the folder cannot be written."""
        self._make_folder()
        write_tensors(self._named(key, kind), kind, tensors, notes)
        self._use(self._named(key, kind))
        self._evict()

    def _named(self, key: str, kind: str) -> Path:
        return self.folder / f"{key}-{kind}.safetensors"

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"The folder {self.folder} for captured statistics cannot be made: {error.strerror or error}."
            raise InputError("folder-missing", message, file=str(self.folder)) from error

    def _open(self, path: Path) -> MomentFile:
        file = MomentFile(path, self._temporary)
        self._use(path)
        return file

    def _use(self, path: Path) -> None:
        self._used.add(path)
        with contextlib.suppress(OSError):
            os.utime(path)

    def _evict(self) -> None:
        """Delete the least recently used files until the folder is within its limit."""
        if self.limit_mib is None:
            return
        states: list[tuple[float, int, Path]] = []
        for path in self.folder.glob("*.safetensors"):
            with contextlib.suppress(OSError):
                state = path.stat()
                states.append((state.st_mtime, state.st_size, path))
        excess = sum(size for _, size, _ in states) - self.limit_mib * 2**20
        for _, size, path in sorted(states):
            if excess <= 0:
                return
            if path not in self._used:
                with contextlib.suppress(OSError):
                    path.unlink()
                    excess -= size


def digest(*parts: object) -> str:
    """Hex name of JSON-like values, 32 digits."""
    text = json.dumps([FORMAT, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def digest_deltas(deltas: Mapping[str, Delta]) -> str:
    """Hex name of the numbers of a LoRA: equal factors, equal name, whatever file they came from."""
    state = hashlib.sha256()
    for name in sorted(deltas):
        delta = deltas[name]
        for factor in (delta.up, delta.down) if isinstance(delta, LowRank) else (delta.weight,):
            state.update(f"{name} {tuple(factor.shape)} {factor.dtype}\n".encode())
            state.update(_bytes(factor))
    return state.hexdigest()


def _bytes(factor: Tensor) -> bytes:
    return factor.detach().cpu().contiguous().view(uint8).numpy().tobytes()
