"""The options of a merge: one parse and validate point for command line, recipe file, API and tab.

A recipe is a JSON object with the command line's names: `checkpoint`, `lora`, `method`, `preset`, `rank`, `dtype`,
`device`, `seed`, `out`, `overwrite`, `report`, `cache`, `option`, and `version`. An entry of `lora` is either the
command line's text `FILE[:WEIGHT[:TE_WEIGHT]]` or an object with the fields of `LoraChoice`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_loraclr.core.errors import InputError
from lib_loraclr.reading import Reader, array, flag, integer, number, object_, one_of, resolve, templates, text

OPTIONS_VERSION = 1
PRESETS = ("instant", "text", "full", "best")
DEFAULT_PRESET = "best"
DTYPES = ("fp16", "bf16", "fp32")
DEFAULT_METHOD = "gradient-fusion"
DEFAULT_MODEL_FREE_METHOD = "sum"

OptionValue = float | int | str | bool


@dataclass(frozen=True)
class LoraChoice:
    """One input: effective update = `weight` * delta in the UNet and `te_weight` * delta in the text encoder.

    `te_weight` None means the same as `weight`. `trigger` None means "what the file's metadata says", the empty text
    means that the LoRA has no trigger (styles). `class_word` is what the concept is without its LoRA ("woman").
    `prompts` are what the model draws while the LoRA is watched, `{c}` for trigger and class word and `{other}` for
    something else; none means the usual ones.
    `sha256`, when given, must be the file's hash: a recipe can insist on the very files it was made with.
    """

    file: Path
    weight: float = 1.0
    te_weight: float | None = None
    trigger: str | None = None
    class_word: str | None = None
    sha256: str | None = None
    prompts: tuple[str, ...] = ()

    @property
    def text_weight(self) -> float:
        """The weight of the text encoder's layers."""
        return self.weight if self.te_weight is None else self.te_weight


@dataclass(frozen=True)
class MergeOptions:
    """Everything a merge depends on. `option` holds the method's and the capture's options by name."""

    lora: tuple[LoraChoice, ...]
    out: Path
    checkpoint: Path | None = None
    method: str = DEFAULT_METHOD
    preset: str = DEFAULT_PRESET
    rank: str = "exact"
    dtype: str = "fp16"
    device: str = "auto"
    seed: int = 0
    overwrite: bool = False
    report: Path | None = None
    cache: Path | None = None
    option: Mapping[str, OptionValue] = field(default_factory=dict)

    def as_recipe(self) -> dict[str, Any]:
        """The recipe as JSON data; parsing it again gives equal options."""
        data: dict[str, Any] = {
            "version": OPTIONS_VERSION,
            "lora": [_choice_recipe(choice) for choice in self.lora],
            "method": self.method,
            "preset": self.preset,
            "rank": self.rank,
            "dtype": self.dtype,
            "device": self.device,
            "seed": self.seed,
            "out": str(self.out),
            "overwrite": self.overwrite,
            "option": dict(sorted(self.option.items())),
        }
        for name in ("checkpoint", "report", "cache"):
            value: Path | None = getattr(self, name)
            if value is not None:
                data[name] = str(value)
        return data


def _choice_recipe(choice: LoraChoice) -> dict[str, Any]:
    entry: dict[str, Any] = {"file": str(choice.file), "weight": choice.weight}
    for name in ("te_weight", "trigger", "class_word", "sha256"):
        value = getattr(choice, name)
        if value is not None:
            entry[name] = value
    if choice.prompts:
        entry["prompts"] = list(choice.prompts)
    return entry


def parse_merge_options(
    raw: Mapping[str, Any], *, folder: Path | None = None, source: str | None = None
) -> MergeOptions:
    """Typed options from a recipe-shaped mapping.

    Relative paths are resolved against `folder` (a recipe's own folder) when it is given. `source` is the file that an
    error names. Raises InputError with `key` for an unknown name, a wrong type, a missing or an empty value.
    """
    read = Reader(raw, "", source, folder)
    version = read.get("version", integer, OPTIONS_VERSION)
    if version != OPTIONS_VERSION:
        raise InputError(
            "bad-version",
            f"The recipe has version {version}; this program reads version {OPTIONS_VERSION}.",
            file=source,
            key="version",
        )
    preset = read.get("preset", one_of(PRESETS), DEFAULT_PRESET)
    default_method = DEFAULT_MODEL_FREE_METHOD if preset == "instant" else DEFAULT_METHOD
    options = MergeOptions(
        lora=tuple(_choices(read)),
        out=read.path("out", required=True) or Path(),
        checkpoint=read.path("checkpoint"),
        method=read.get("method", text, default_method),
        preset=preset,
        rank=read.get("rank", _rank, "exact"),
        dtype=read.get("dtype", one_of(DTYPES), "fp16"),
        device=read.get("device", text, "auto"),
        seed=read.get("seed", integer, 0),
        overwrite=read.get("overwrite", flag, False),
        report=read.path("report"),
        cache=read.path("cache"),
        option=_options(read),
    )
    read.finish()
    return options


def _choices(read: Reader) -> list[LoraChoice]:
    entries: Sequence[Any] = read.get("lora", array, ())
    if not entries:
        raise InputError("empty-selection", "No LoRA was chosen; give at least one.", file=read.source, key="lora")
    choices: list[LoraChoice] = []
    for index, entry in enumerate(entries):
        key = f"lora[{index}]"
        if isinstance(entry, str):
            choices.append(parse_lora_argument(entry, folder=read.folder))
            continue
        if not isinstance(entry, Mapping):
            raise read.wrong(key, "a text FILE[:WEIGHT[:TE_WEIGHT]] or an object", entry)
        item = Reader(entry, key + ".", read.source, read.folder)
        choice = LoraChoice(
            file=item.path("file", required=True) or Path(),
            weight=item.get("weight", number, 1.0),
            te_weight=item.get("te_weight", number, None),
            trigger=item.get("trigger", text, None),
            class_word=item.get("class_word", text, None),
            sha256=item.get("sha256", text, None),
            prompts=item.get("prompts", templates, ()),
        )
        item.finish()
        choices.append(choice)
    return choices


def parse_lora_argument(given: str, *, folder: Path | None = None) -> LoraChoice:
    """`FILE[:WEIGHT[:TE_WEIGHT]]` to a choice.

    Paths may hold colons (drive letters, names): at most two trailing fields are taken, only when they are numbers,
    and never when the longer text is a file that exists.
    """
    fields = given.split(":")
    numbers: list[float] = []
    while True:
        path = ":".join(fields)
        rest = _float_or_none(fields[-1]) if len(fields) > 1 and len(numbers) < 2 else None
        if rest is None or resolve(path, folder).is_file():
            break
        numbers.insert(0, rest)
        fields.pop()
    if not path:
        raise InputError("bad-option", f"'{given}' names no file; write FILE[:WEIGHT[:TE_WEIGHT]].", key="lora")
    weight, te_weight = (*numbers, None, None)[:2]
    return LoraChoice(resolve(path, folder), 1.0 if weight is None else weight, te_weight)


def _options(read: Reader) -> dict[str, OptionValue]:
    table: Mapping[str, Any] = read.get("option", object_, {})
    for name, value in table.items():
        if not isinstance(value, str | int | float | bool) or (isinstance(value, float) and not math.isfinite(value)):
            raise read.wrong(f"option.{name}", "a number, a text or true/false", value)
    return dict(table)


def _float_or_none(given: str) -> float | None:
    try:
        value = float(given)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _rank(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text(value)
