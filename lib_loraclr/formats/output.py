"""The output side of a job: what can be wrong with it is found before the work, and files appear all or none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lib_loraclr.core.errors import InputError
from lib_loraclr.formats import FileWarning, atomic_path, check_output


def check_job_output(out: Path, suffix: str, *, overwrite: bool, inputs: Sequence[Path] = ()) -> None:
    """Raise InputError unless `out` can be written when the work is done.

    Codes: bad-output-name, output-is-input, folder-missing, folder-read-only, output-exists, disk-full.
    """
    if out.suffix.lower() != suffix:
        raise InputError("bad-output-name", f"The output file must end in {suffix}.", file=str(out), key="out")
    if any(_same(out, path) for path in inputs):
        message = "The output file is one of the inputs; choose another name."
        raise InputError("output-is-input", message, file=str(out), key="out")
    check_output(out, overwrite=overwrite)
    probe(out)


def check_report_folder(folder: Path) -> None:
    """Raise InputError unless `folder` is or can become a folder with files in it."""
    existing = next((path for path in (folder, *folder.parents) if path.exists()), Path())
    if not existing.is_dir():
        raise InputError(
            "folder-missing", "The report folder's name is that of a file.", file=str(existing), key="report"
        )
    probe(existing / "report")


def probe(path: Path) -> None:
    """Raise InputError unless a file can be made beside `path`: tried, because network drives' permission bits lie."""
    with suppress(_TrialError), atomic_path(path, overwrite=True) as temporary:
        temporary.write_bytes(b"\0")
        raise _TrialError


class _TrialError(Exception):
    """Ends a trial before anything is renamed."""


def name_warnings(out: Path, inputs: Sequence[Path]) -> list[FileWarning]:
    """Hosts know a LoRA by its stem alone, so a second file with the same stem would shadow or be shadowed."""
    others = [path for path in inputs if path.stem == out.stem]
    others += [path for path in out.parent.glob(f"{_literal(out.stem)}.*") if path.suffix.lower() in (".pt", ".ckpt")]
    return [
        FileWarning(
            "same-name", f"'{path}' has the same name as the output; a prompt can reach only one of them.", str(path)
        )
        for path in others
    ]


def _literal(text: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)


def _same(left: Path, right: Path) -> bool:
    try:
        return left.samefile(right)
    except OSError:
        return False


@contextmanager
def all_or_nothing(*paths: Path, folder: Path | None = None) -> Generator[None]:
    """Whatever is written to `paths` inside the block stays only when the block ends well; else all is as before.

    `folder` is made for the block when it is missing, and is removed again on failure.

    Writers inside must replace files (temp file, then `os.replace`), not write into them: earlier versions are kept
    as hard links for the time of the block.
    """
    kept: dict[Path, Path | None] = {}
    made: list[Path] = []
    try:
        if folder is not None:
            made = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            kept[path] = _keep(path) if path.exists() else None
        yield
    except BaseException:
        for path, backup in kept.items():
            with suppress(OSError):
                if backup is None:
                    path.unlink(missing_ok=True)
                else:
                    backup.replace(path)
        for path in made:
            with suppress(OSError):
                path.rmdir()
        raise
    for backup in kept.values():
        if backup is not None:
            backup.unlink(missing_ok=True)


def _keep(path: Path) -> Path:
    backup = path.with_name(f".{path.name}.{os.getpid()}.before")
    backup.unlink(missing_ok=True)
    try:
        os.link(path, backup)
    except OSError:
        shutil.copy2(path, backup)
    return backup


def write_text(path: Path, text: str) -> None:
    """UTF-8 text through a temporary file, so that a reader never sees half of it."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Bytes through a temporary file beside `path`; raises InputError when the system refuses."""
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_bytes(data)
