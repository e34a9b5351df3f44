"""Safetensors files: checked headers, reads that leave no handle open, deterministic and atomic writes.

Format: 8 bytes little-endian header length, a JSON header of name -> {dtype, shape, data_offsets} with an optional
`__metadata__` of strings, then the tensors' bytes without gaps (huggingface/safetensors, "Format"). It is read here
directly so that each fault gets its own sentence, no memory map outlives a read, and equal input gives equal bytes
(the library's metadata order is not stable).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib_loraclr.core.errors import InputError

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
for _name, _attribute in (("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2")):
    if hasattr(torch, _attribute):
        DTYPES[_name] = getattr(torch, _attribute)
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_HEADER = 100_000_000  # the reference implementation's limit
_CHUNK = 1 << 22


@dataclass(frozen=True)
class TensorInfo:
    """One entry of the header; `begin` and `end` are offsets into the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class SafetensorsFile:
    """A checked header. Tensors are read on demand; each read opens and closes the file."""

    path: Path
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_begin: int
    stamp: tuple[int, int]  # size and mtime, so that a file replaced under us is noticed

    @classmethod
    def open(cls, path: Path) -> SafetensorsFile:
        """Read and check the header. Raises InputError with one sentence for whatever is wrong with the file."""
        file = str(path)
        try:
            with path.open("rb") as stream:
                status = os.fstat(stream.fileno())
                size, stamp = status.st_size, (status.st_size, status.st_mtime_ns)
                start = stream.read(16)
                length = _header_length(path, start, size)
                stream.seek(8)
                raw = stream.read(length)
        except OSError as error:
            raise read_error(path, error) from error
        tensors, metadata = _parse_header(file, raw, 8 + length, size)
        return cls(path, tensors, metadata, 8 + length, stamp)

    def read(self, key: str) -> Tensor:
        """The tensor of `key` in its stored dtype, on the CPU, owning its memory."""
        info = self.tensors[key]
        try:
            with self.path.open("rb") as stream:
                status = os.fstat(stream.fileno())
                if (status.st_size, status.st_mtime_ns) != self.stamp:
                    message = f"{self.path.name} was changed while it was in use; start again."
                    raise InputError("file-changed", message, file=str(self.path))
                stream.seek(info.begin)
                data = bytearray(info.end - info.begin)
                stream.readinto(data)
        except OSError as error:
            raise read_error(self.path, error) from error
        if not data:
            return torch.empty(info.shape, dtype=DTYPES[info.dtype])
        return torch.frombuffer(data, dtype=DTYPES[info.dtype]).reshape(info.shape)

    def read_finite(self, key: str) -> Tensor:
        """As `read`; raises InputError naming the key if a value is NaN or infinite."""
        tensor = self.read(key)
        require_finite(tensor, self.path, key)
        return tensor


def require_finite(tensor: Tensor, path: Path, key: str) -> None:
    """Raise InputError if a floating point tensor holds NaN or an infinity."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return
    values = tensor.float() if tensor.element_size() == 1 else tensor
    if bool(torch.isfinite(values).all()):
        return
    what = "NaN" if bool(torch.isnan(values).any()) else "infinite values"
    raise InputError("not-finite", f"{path.name} holds {what} in '{key}'.", file=str(path), key=key)


def read_error(path: Path, error: OSError) -> InputError:
    """The InputError for a file that cannot be opened or read."""
    if isinstance(error, FileNotFoundError):
        return InputError("file-not-found", f"{path} does not exist.", file=str(path))
    if isinstance(error, IsADirectoryError) or path.is_dir():
        return InputError("not-a-file", f"{path} is a folder, not a file.", file=str(path))
    if isinstance(error, PermissionError):
        return InputError("not-readable", f"{path} cannot be read: permission denied.", file=str(path))
    return InputError("not-readable", f"{path} cannot be read: {error.strerror or error}.", file=str(path))


def _header_length(path: Path, start: bytes, size: int) -> int:
    def fault(code: str, message: str) -> InputError:
        return InputError(code, f"{path.name} {message}", file=str(path))

    if size == 0:
        raise fault("empty-file", "is empty (0 bytes).")
    pickled = start[:2] == b"PK" or (start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05")
    if pickled and start[8:9] != b"{":  # a header may well be 0x280 bytes long
        raise fault(
            "pickle", "is a pickle (.pt/.ckpt), which can run code when opened; convert it to safetensors first."
        )
    if size < 10:
        raise fault("truncated", f"is too short to be a safetensors file ({size} bytes).")
    length = int.from_bytes(start[:8], "little")
    if start[8:9] != b"{":
        raise fault("not-safetensors", "is not a safetensors file.")
    if length > size - 8:
        raise fault("truncated", f"is truncated: its header should be {length} bytes long, the file has {size}.")
    if length > _MAX_HEADER:
        raise fault("not-safetensors", f"has a header of {length} bytes, more than the format allows.")
    return length


def _parse_header(file: str, raw: bytes, data_begin: int, size: int) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    name = Path(file).name
    try:
        header: Any = json.loads(raw.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError("not-safetensors", f"{name} has a header that is not valid JSON.", file=file) from error
    if not isinstance(header, dict):
        raise InputError("not-safetensors", f"{name} has a header that is not a JSON object.", file=file)
    metadata: Any = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise InputError("bad-metadata", f"{name} has metadata that is not a JSON object.", file=file)
    for key, value in metadata.items():
        if not isinstance(value, str):
            kind = type(value).__name__
            message = f"{name} has metadata that is not text: '{key}' is of type {kind}."
            raise InputError("bad-metadata", message, file=file, key=str(key))
    tensors = {str(key): _tensor_info(file, str(key), entry, data_begin) for key, entry in header.items()}
    position = data_begin
    for key, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin != position:
            message = f"{name} has wrong offsets: '{key}' overlaps another tensor or leaves a gap before it."
            raise InputError("bad-offsets", message, file=file, key=key)
        position = info.end
        if position > size:
            message = f"{name} is truncated: '{key}' ends at byte {position}, the file has {size}."
            raise InputError("truncated", message, file=file, key=key)
    return tensors, metadata


def _tensor_info(file: str, key: str, entry: Any, data_begin: int) -> TensorInfo:
    name = Path(file).name
    try:
        dtype, shape, (begin, end) = str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"]
        whole = all(isinstance(n, int) and n >= 0 for n in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        whole, dtype, shape, begin, end = False, "", (), 0, 0
    if not whole or end < begin:
        message = f"{name} has a header entry that is not a tensor: '{key}'."
        raise InputError("bad-offsets", message, file=file, key=key)
    if dtype not in DTYPES:
        message = f"{name} stores '{key}' as {dtype}, which this version of torch cannot read."
        raise InputError("bad-dtype", message, file=file, key=key)
    if end - begin != math.prod(shape) * DTYPES[dtype].itemsize:
        message = f"{name} has wrong offsets: '{key}' of shape {list(shape)} cannot be {end - begin} bytes of {dtype}."
        raise InputError("bad-offsets", message, file=file, key=key)
    return TensorInfo(dtype, shape, data_begin + begin, data_begin + end)


# ---------------------------------------------------------------------------------------------------------------------


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise InputError if `path` cannot become an output file: folder missing or read-only, exists, is a folder."""
    folder = path.parent
    if not folder.is_dir():
        raise InputError("folder-missing", f"The output folder {folder} does not exist.", file=str(path))
    if path.is_dir():
        raise InputError("output-exists", f"The output {path} is a folder.", file=str(path))
    if path.exists() and not overwrite:
        raise InputError("output-exists", f"{path} exists already; choose another name or allow overwriting.",
                         file=str(path))  # fmt: skip
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError("folder-read-only", f"The output folder {folder} is read-only.", file=str(path))


@contextlib.contextmanager
def atomic_path(path: Path, *, overwrite: bool = False) -> Generator[Path, None, None]:
    """A temporary file name in the same folder; on success it is synced and renamed to `path`, else removed.

    Removal also follows KeyboardInterrupt. Raises InputError ("output-exists", "disk-full" ...) in plain words.
    """
    check_output(path, overwrite=overwrite)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        check_output(path, overwrite=overwrite)
        os.replace(temporary, path)  # noqa: PTH105 - the name says what matters here: it replaces atomically
        _sync_folder(path.parent)
    except OSError as error:
        raise _write_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every system can sync a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write_error(path: Path, error: OSError) -> InputError:
    file = str(path)
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None), errno.EFBIG):
        return InputError("disk-full", f"The disk is full: {path} could not be written.", file=file)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return InputError("folder-read-only", f"The output folder {path.parent} is read-only.", file=file)
    return InputError("not-writable", f"{path} could not be written: {error.strerror or error}.", file=file)


def tensor_bytes(tensor: Tensor) -> bytes:
    """The tensor's values in row-major order, little-endian."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def data_hash(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over the data part that `write_safetensors` writes for these tensors."""
    digest = hashlib.sha256()
    for name in _order(tensors):
        digest.update(tensor_bytes(tensors[name]))
    return digest.hexdigest()


def header_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Length and header, padded with spaces to 8 bytes; sorted, so equal input gives equal bytes."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name in _order(tensors):
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    raw = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write the file at `path` as it is named (no temporary file: see `atomic_path`)."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    with os.fdopen(handle, "wb", buffering=_CHUNK) as stream:
        stream.write(header_bytes(tensors, metadata))
        for name in _order(tensors):
            stream.write(tensor_bytes(tensors[name]))
        stream.flush()


def _order(tensors: Mapping[str, Tensor]) -> list[str]:
    """Wider values first, so that every tensor is aligned; then by name."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
