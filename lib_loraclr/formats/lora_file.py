"""A LoRA file in memory: per layer an update that yields the true dW, plus what the file says about itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from lib_loraclr.core.deltas import Delta, LayerShape


class LayerUpdate(Protocol):
    """One layer of a LoRA file of any type."""

    @property
    def kind(self) -> str:
        """One of "lora", "locon", "loha", "lokr", "dora", "oft", "boft", "ia3", "glora", "full"."""
        ...

    @property
    def needs_base(self) -> bool:
        """Whether dW depends on the layer's weight."""
        ...

    @property
    def rank(self) -> int | None:
        """The family's rank parameter."""
        ...

    @property
    def size(self) -> tuple[int | None, int | None]:
        """(out, in) of the unfolded dW; None where the file does not tell."""
        ...

    @property
    def kernel(self) -> tuple[int, ...]:
        """(kh, kw) of a convolution where the file shows it, else empty."""
        ...

    @property
    def keys(self) -> tuple[str, ...]:
        """Tensor keys in the file, for error messages."""
        ...

    def check_fits(self, shape: LayerShape) -> None:
        """Raise InputError ("shape-mismatch"), naming file and key, if dW cannot be added to such a layer."""
        ...

    def delta(self, base: Tensor | None = None) -> Delta:
        """The true dW at weight 1, float32; `base` is the layer's weight, required where `needs_base`."""
        ...


@dataclass(frozen=True)
class FileWarning:
    """Something the user should know that does not stop the job."""

    code: str
    message: str
    file: str | None = None
    key: str | None = None

    def as_dict(self) -> dict[str, str | None]:
        """The JSON form."""
        return {"code": self.code, "message": self.message, "file": self.file, "key": self.key}


@dataclass(frozen=True)
class LoraFile:
    """`layers` by canonical layer name; `vectors` are 1-D updates (biases, norms) by canonical parameter name.

    `sha256` is the hash that hosts show: over what follows the header of a safetensors file.
    """

    path: Path
    name: str
    family: str  # "sd1", "sd2", "sdxl", "unknown"
    layers: dict[str, LayerUpdate]
    vectors: dict[str, Tensor]
    metadata: dict[str, str]
    sha256: str
    triggers: tuple[str, ...] = ()
    embeddings: dict[str, Tensor] = field(default_factory=dict)
    warnings: tuple[FileWarning, ...] = ()

    @property
    def types(self) -> tuple[str, ...]:
        """The distinct layer types, sorted."""
        return tuple(sorted({update.kind for update in self.layers.values()}))
