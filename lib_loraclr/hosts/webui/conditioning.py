"""Encoded prompts as the WebUI's models take them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 77


@dataclass(frozen=True)
class Conditioning:
    """`context` (n, 77 k, d); `vector` (n, v) for SDXL; `words` (n, 77 k) is False on the padding."""

    context: Tensor
    vector: Tensor | None
    words: Tensor

    def __len__(self) -> int:
        return len(self.context)

    @classmethod
    def of(cls, value: object, words: Tensor) -> Conditioning:
        """From what the WebUI's `get_learned_conditioning` returns: a tensor, or a dict of crossattn and vector."""
        if isinstance(value, dict):
            return cls(value["crossattn"], value["vector"], words)
        if not isinstance(value, Tensor):
            raise TypeError(f"the WebUI encoded a prompt as {type(value).__name__}")
        return cls(value, None, words)

    def joined(self, other: Conditioning) -> Conditioning:
        """Both one after the other; the last chunk of the shorter context is repeated."""
        length = max(self.context.shape[1], other.context.shape[1])
        a, b = self._padded(length), other._padded(length)
        vector = None if a.vector is None or b.vector is None else torch.cat([a.vector, b.vector])
        return Conditioning(torch.cat([a.context, b.context]), vector, torch.cat([a.words, b.words]))

    def _padded(self, length: int) -> Conditioning:
        missing = (length - self.context.shape[1]) // CHUNK
        if missing <= 0:
            return self
        context = torch.cat([self.context, *[self.context[:, -CHUNK:]] * missing], 1)
        return Conditioning(context, self.vector, torch.cat([self.words, *[self.words[:, -CHUNK:]] * missing], 1))
