"""For programs: `lib_loraclr.merge` and `lib_loraclr.inspect`, with the names and defaults of the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib_loraclr.formats.inspect import Inspection
from lib_loraclr.formats.inspect import inspect as inspect_file
from lib_loraclr.frontends.cli.merge import open_standalone
from lib_loraclr.merging.options import LoraChoice, parse_merge_options
from lib_loraclr.merging.outcome import MergeOutcome
from lib_loraclr.merging.pipeline import merge as run_merge
from lib_loraclr.model import Progress, SilentProgress

PathText = str | os.PathLike[str]


def merge(
    loras: Sequence[PathText | LoraChoice],
    out: PathText,
    *,
    checkpoint: PathText | None = None,
    method: str | None = None,
    preset: str | None = None,
    rank: str | int = "exact",
    dtype: str = "fp16",
    device: str = "auto",
    seed: int = 0,
    options: Mapping[str, float | int | str | bool] | None = None,
    report: PathText | None = None,
    cache: PathText | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> MergeOutcome:
    """Merge LoRA files into one `.safetensors` file, and say what is kept of each.

    `loras` are paths, or `LoraChoice` where a LoRA has a weight, a trigger or a class word of its own. `checkpoint` is
    the base model as one `.safetensors` file; the methods gradient-fusion and contrastive need it, all others do not.
    `options` are those of the method and of the capture, by the names that `loraclr merge --help` lists; None for
    `method` and `preset` is the default. `cache` is a folder that keeps what was captured for the next merge.
    `progress` is told about every step and may raise `Cancelled`.

    Relative paths start from the current folder. Raises `InputError` for wrong input, before the model runs, and
    `LoraclrError` for a failure later; both have `code`, `message`, `file` and `key`. After an error no file is left
    behind. An existing `out` is an error unless `overwrite` is true.
    """
    fields: dict[str, Any] = {
        "lora": [_entry(lora) for lora in loras], "out": os.fspath(out), "rank": rank, "dtype": dtype,
        "device": device, "seed": seed, "overwrite": overwrite, "option": dict(options or {}),
    }  # fmt: skip
    fields |= {name: value for name, value in (("method", method), ("preset", preset)) if value is not None}
    paths = {"checkpoint": checkpoint, "report": report, "cache": cache}
    fields |= {name: os.fspath(path) for name, path in paths.items() if path is not None}
    return run_merge(parse_merge_options(fields), open_host=open_standalone, progress=progress or SilentProgress())


def inspect(file: PathText) -> Inspection:
    """What a LoRA file is: `facts` (type, base family, ranks, layers, triggers, recipe) and `warnings`.

    Raises `InputError` for a file that is missing, damaged, or no LoRA.
    """
    inspection = inspect_file(Path(file))
    if inspection.error is not None:
        raise inspection.error
    return inspection


def _entry(lora: PathText | LoraChoice) -> dict[str, Any]:
    """One input as recipes write it."""
    if not isinstance(lora, LoraChoice):
        return {"file": os.fspath(lora)}
    entry = {name: value for name, value in vars(lora).items() if value is not None}
    return {**entry, "file": os.fspath(lora.file), "prompts": list(lora.prompts)}
