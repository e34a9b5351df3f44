"""File hashes as the hosts and trainers compute them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lib_loraclr.formats.safetensors_io import read_error

_CHUNK = 1 << 22
_LEGACY_BEGIN, _LEGACY_LENGTH = 0x100000, 0x10000


def file_sha256(path: Path) -> str:
    """sha256 of the whole file, hexadecimal."""
    return _digest(path, 0)


def model_hash(path: Path) -> str:
    """sha256 of what follows a safetensors header: the hash that hosts show for a LoRA (`sshs_model_hash`).

    It does not depend on metadata. The file must have a valid header.
    """
    with path.open("rb") as stream:
        begin = 8 + int.from_bytes(stream.read(8), "little")
    return _digest(path, begin)


def legacy_hash(head: bytes) -> str:
    """`sshs_legacy_hash`: 8 digits over 64 KiB at 1 MiB into the file; `head` is the file up to there or all of it."""
    return hashlib.sha256(head[_LEGACY_BEGIN : _LEGACY_BEGIN + _LEGACY_LENGTH]).hexdigest()[:8]


LEGACY_HEAD = _LEGACY_BEGIN + _LEGACY_LENGTH


def _digest(path: Path, begin: int) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            stream.seek(begin)
            while block := stream.read(_CHUNK):
                digest.update(block)
    except OSError as error:
        raise read_error(path, error) from error
    return digest.hexdigest()
