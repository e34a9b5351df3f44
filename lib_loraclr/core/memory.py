"""Memory that was not enough: how an exception says so, and how to get back what the failed attempt held."""

from __future__ import annotations

import gc

import torch

# of CUDA, ROCm and MPS, of CUBLAS, and of the CPU's allocator on Linux and Windows
SENTENCES = ("out of memory", "alloc_failed", "can't allocate memory", "not enough memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that the memory of a device or of the machine was not enough."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sentence in text for sentence in SENTENCES)


def release_memory() -> None:
    """Hand unused memory back; call it when the exception is gone, whose traceback keeps tensors alive."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
