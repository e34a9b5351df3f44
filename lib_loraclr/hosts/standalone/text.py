"""Prompts to conditioning: 75-token chunks between start and end token, one or two CLIP text models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib_loraclr.hosts.conditioning import CHUNK, Conditioning, RunningMask

START, END = 49406, 49407


class TextStack:
    """Tokenizer and text encoders of one family. `running` knows the mask of the call that is running."""

    def __init__(self, family: str, encoders: Sequence[Any], tokenizer_folder: Path) -> None:
        from transformers import CLIPTokenizer

        self.family, self.encoders = family, tuple(encoders)
        self.tokenizer = CLIPTokenizer.from_pretrained(
            str(tokenizer_folder), local_files_only=True, model_max_length=10**9
        )
        self.running = RunningMask()

    def tokens(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids (n, 77 k), padded with the end token, and the mask of start, words and (first) end token."""
        found = [self.tokenizer(prompt, add_special_tokens=False, truncation=False)["input_ids"] for prompt in prompts]
        room = CHUNK - 2
        chunks = max(1, *(-(-len(ids) // room) for ids in found)) if found else 1
        ids = torch.full((len(found), chunks, CHUNK), END)
        mask = torch.zeros(len(found), chunks, CHUNK, dtype=torch.bool)
        for row, tokens in enumerate(found):
            for chunk in range(chunks):
                part = tokens[chunk * room : (chunk + 1) * room]
                ids[row, chunk, 0] = START
                ids[row, chunk, 1 : 1 + len(part)] = torch.tensor(part, dtype=torch.long)
                mask[row, chunk, : len(part) + 2] = True
        return ids.flatten(1), mask.flatten(1)

    def encode(self, prompts: Sequence[str], device: torch.device) -> Conditioning:
        """Every encoder once per chunk; hooks on the encoders see (n, 77, width) inputs."""
        ids, mask = self.tokens(prompts)
        ids, mask = ids.to(device), mask.to(device)
        contexts, pooled = [], None
        for first in range(0, ids.shape[1], CHUNK):
            part = slice(first, first + CHUNK)
            with self.running.of(mask[:, part]):
                states = [self._run(k, ids[:, part]) for k in range(len(self.encoders))]
            contexts.append(torch.cat([state for state, _ in states], -1))
            pooled = states[-1][1] if pooled is None else pooled
        return Conditioning(torch.cat(contexts, 1), pooled, mask)

    def _run(self, number: int, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """(hidden states, pooled). SDXL takes the last but one layer; OpenCLIP was trained with 0 as padding."""
        encoder = self.encoders[number]
        if self.family == "sd2" or number == 1:
            ended = (ids == END).cumsum(1) > 1
            ids = ids.masked_fill(ended, 0)
        if self.family != "sdxl":
            return encoder(input_ids=ids).last_hidden_state, None
        out = encoder(input_ids=ids, output_hidden_states=True)
        return out.hidden_states[-2], getattr(out, "text_embeds", None)
