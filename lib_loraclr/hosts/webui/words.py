"""Which tokens of a prompt are words: the WebUI's own tokenizer, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def word_mask(tokenizer: Any, prompts: Sequence[str]) -> Tensor:
    """(n, 77 k) on the CPU, True on start token, words and first end token; shorter prompts get padding chunks.

    `tokenizer` is the WebUI's wrapper of a text encoder: `process_texts` cuts into chunks, `id_end` ends the words.
    """
    chunked, _ = tokenizer.process_texts(list(prompts))
    rows = [[_chunk_mask(chunk.tokens, tokenizer.id_end) for chunk in chunks] for chunks in chunked]
    length = max(len(row) for row in rows)
    empty = torch.zeros(77, dtype=torch.bool)
    empty[:2] = True
    return torch.stack([torch.cat([*row, *[empty] * (length - len(row))]) for row in rows])


def _chunk_mask(tokens: Sequence[int], end: int) -> Tensor:
    last = list(tokens).index(end) if end in tokens else len(tokens) - 1
    return torch.arange(len(tokens)) <= last


class RunningWords:
    """The mask of the chunk that a text encoder is busy with: encoders run once per chunk, in order."""

    def __init__(self) -> None:
        self.current: Tensor | None = None

    @contextmanager
    def whole(self, mask: Tensor) -> Iterator[None]:
        """Scope in which the whole prompt's mask is current."""
        self.current = mask
        try:
            yield
        finally:
            self.current = None

    @contextmanager
    def by_chunk(self, encoders: Sequence[nn.Module], mask: Tensor) -> Iterator[None]:
        """Scope in which every call of an encoder makes its next chunk's mask current."""
        chunks = mask.split(77, dim=1)
        with ExitStack() as stack:
            for encoder in encoders:
                remaining = iter(chunks)

                def begin(*_: object, remaining: Iterator[Tensor] = remaining) -> None:
                    self.current = next(remaining, None)

                stack.callback(encoder.register_forward_pre_hook(begin).remove)
            try:
                yield
            finally:
                self.current = None
