"""SDXL's picture size inside the conditioning vector."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from lib_loraclr.hosts.webui.conditioning import Conditioning

SIZES = ("original_size_as_tuple", "target_size_as_tuple")


def with_size(model: Any, conditioning: Conditioning, size: tuple[int, int]) -> Conditioning:
    """`conditioning` for pictures of (width, height); unchanged where the model does not look at the size.

    The vector is the pooled text followed by one part per size embedder, in the embedders' order.
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
