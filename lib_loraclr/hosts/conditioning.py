"""Encoded prompts, and which of their tokens are words: the same in every host."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

CHUNK = 77  # tokens that a CLIP encoder takes at once: start, 75 of the prompt, end
SIZES = ("original_size_as_tuple", "target_size_as_tuple")


@dataclass(frozen=True)
class Conditioning:
    """`context` (n, 77 k, d); `token_mask` (n, 77 k) is False on the padding.

    `vector` (n, v) is SDXL's pooled text; a WebUI has the size's embedding behind it.
    """

    context: Tensor
    vector: Tensor | None
    token_mask: Tensor

    def __len__(self) -> int:
        return len(self.context)

    @classmethod
    def of(cls, learned: object, token_mask: Tensor) -> Conditioning:
        """From what a WebUI's `get_learned_conditioning` returns: a tensor, or a dict of crossattn and vector."""
        if isinstance(learned, dict):
            return cls(learned["crossattn"], learned["vector"], token_mask)
        if not isinstance(learned, Tensor):
            raise TypeError(f"the WebUI encoded a prompt as {type(learned).__name__}")
        return cls(learned, None, token_mask)

    def zeros(self) -> Conditioning:
        """SDXL's unconditional branch for an empty negative prompt."""
        vector = None if self.vector is None else torch.zeros_like(self.vector)
        return Conditioning(torch.zeros_like(self.context), vector, self.token_mask)

    def joined(self, other: Conditioning) -> Conditioning:
        """Both one after the other; the last chunk of the shorter context is repeated."""
        length = max(self.context.shape[1], other.context.shape[1])
        a, b = self._padded(length), other._padded(length)
        vector = None if a.vector is None or b.vector is None else torch.cat([a.vector, b.vector])
        token_mask = torch.cat([a.token_mask, b.token_mask])
        return Conditioning(torch.cat([a.context, b.context]), vector, token_mask)

    def _padded(self, length: int) -> Conditioning:
        missing = (length - self.context.shape[1]) // CHUNK
        if missing <= 0:
            return self
        context, token_mask = (
            torch.cat([values, *[values[:, -CHUNK:]] * missing], 1) for values in (self.context, self.token_mask)
        )
        return Conditioning(context, self.vector, token_mask)


def with_size(model: Any, conditioning: Conditioning, size: tuple[int, int]) -> Conditioning:
    """`conditioning` for pictures of (width, height); unchanged where the model does not look at the size.

    `model` is SDXL's of the original code base, whose vector is the pooled text followed by one part per size
    embedder, in the embedders' order.
    """
    if conditioning.vector is None:
        return conditioning
    width, height = size
    vector, end = conditioning.vector.clone(), conditioning.vector.shape[1]
    for embedder in reversed(list(model.conditioner.embedders)):
        key = getattr(embedder, "input_key", "")
        if not key.endswith(("_as_tuple", "_top_left")):
            break
        numbers = torch.tensor([[height, width]], device=vector.device, dtype=vector.dtype)
        part = embedder(numbers).to(vector.dtype)
        if key in SIZES:
            vector[:, end - part.shape[1] : end] = part
        end -= part.shape[1]
    return replace(conditioning, vector=vector)


class RunningMask:
    """The token mask of the call that is running; None while none is."""

    def __init__(self) -> None:
        self.current: Tensor | None = None

    @contextmanager
    def of(self, mask: Tensor) -> Generator[None]:
        """Scope of a call with these tokens."""
        self.current = mask
        try:
            yield
        finally:
            self.current = None

    @contextmanager
    def by_chunk(self, encoders: Sequence[nn.Module], mask: Tensor) -> Generator[None]:
        """Scope in which every call of an encoder is with its next chunk: encoders run once per chunk, in order."""
        chunks = mask.split(CHUNK, dim=1)
        with ExitStack() as stack:
            stack.callback(setattr, self, "current", None)
            for encoder in encoders:
                remaining = iter(chunks)

                def begin(*_: object, remaining: Iterator[Tensor] = remaining) -> None:
                    self.current = next(remaining, None)

                stack.callback(encoder.register_forward_pre_hook(begin).remove)
            yield
