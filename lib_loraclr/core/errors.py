"""Errors that cross layer boundaries; every face (tab, API, command line) renders the same four fields."""

from __future__ import annotations

import gc


class LoraclrError(Exception):
    """A failure with a stable `code`, one clear sentence, and the file and tensor key it is about.

    `exit_status` is what the command line ends with: 1 for a failure, 2 for wrong input, 130 for a cancel.
    """

    exit_status = 1

    def __init__(self, code: str, message: str, *, file: str | None = None, key: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.file, self.key = code, message, file, key

    def as_dict(self) -> dict[str, str | None]:
        """The JSON form used by `--json` and by the HTTP API."""
        return {"code": self.code, "message": self.message, "file": self.file, "key": self.key}


class InputError(LoraclrError):
    """The user's input is wrong; nothing was written."""

    exit_status = 2


class Cancelled(LoraclrError):  # noqa: N818
    """The user asked to stop; nothing was written."""

    exit_status = 130

    def __init__(self, message: str = "Cancelled; nothing was written.") -> None:
        super().__init__("cancelled", message)


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
    import torch  # here, so that what only knows errors starts without it

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
