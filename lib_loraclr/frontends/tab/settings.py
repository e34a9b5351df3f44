"""The tab's settings as plain values by name, to and from a recipe. The controls are made from the same list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_loraclr.app.catalogue import free_name, lora_path
from lib_loraclr.core.errors import InputError
from lib_loraclr.core.methods import METHODS, get_method
from lib_loraclr.core.rank import RankPolicy
from lib_loraclr.merging.config import JOB_OPTIONS
from lib_loraclr.merging.options import (
    DEFAULT_METHOD,
    DEFAULT_MODEL_FREE_METHOD,
    DEFAULT_PRESET,
    MergeOptions,
    parse_merge_options,
)
from lib_loraclr.options import Field, FieldReader, as_value, fields_of

RANK_KINDS = ("exact", "fixed", "energy", "size")
FIELDS = fields_of(MergeOptions)
PLAIN = ("preset", "method", "dtype", "seed", "overwrite")  # a recipe's fields that have a control of their own
SIMPLE: dict[str, Any] = {
    **{name: FIELDS[name].default for name in PLAIN},
    "rank_kind": "exact",
    "rank_fixed": 32,
    "rank_energy": 0.95,
    "rank_size": 50,
    "name": "merged",
    "report": True,
}

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Advanced:
    """An advanced setting: an option of the job (`method` empty) or of one method."""

    method: str
    field: Field

    @property
    def name(self) -> str:
        """Its name among the settings."""
        return f"{self.method or 'capture'}.{self.field.name}"

    @property
    def default(self) -> Any:
        """What its control begins with."""
        return as_value(self.field, self.field.default)


ADVANCED: tuple[Advanced, ...] = (
    *(Advanced("", field) for field in JOB_OPTIONS),
    *(Advanced(method.name, field) for method in METHODS.values() for field in method.options),
)
NAMES: tuple[str, ...] = (*SIMPLE, *(setting.name for setting in ADVANCED))


def method_title(name: str) -> str:
    """What the list of methods shows."""
    return METHODS[name].title


def method_name(title: str) -> str:
    """The method's name, from its name or its title."""
    return next((method.name for method in METHODS.values() if method.title == title), title)


def defaults() -> dict[str, Any]:
    """Every setting's value before anybody changes it."""
    return {**SIMPLE, **{setting.name: setting.default for setting in ADVANCED}}


def named(values: Values) -> dict[str, Any]:
    """Every setting by name from the controls' values; an emptied control has its default."""
    settled = {name: _read(values.get(name), default) for name, default in defaults().items()}
    return {**settled, "method": method_name(str(settled["method"]))}


def _read(value: Any, default: Any) -> Any:
    """A value from the page; JSON does not tell 1 from 1.0."""
    if value is None:
        return default
    return float(value) if isinstance(default, float) and type(value) is int else value


def settle(preset: str, method: str, *, changed: str) -> tuple[str, str]:
    """(preset, method) that go together: what was changed last decides."""
    samples = get_method(method).needs_statistics
    if changed == "preset" and (preset == "instant") == samples:
        return preset, DEFAULT_MODEL_FREE_METHOD if preset == "instant" else DEFAULT_METHOD
    if changed == "method" and (preset == "instant") == samples:
        return (DEFAULT_PRESET if samples else "instant"), method
    return preset, method


def rank_of(values: Values) -> str:
    """The recipe's `rank`."""
    kind = str(values["rank_kind"])
    if kind == "fixed":
        return f"{_whole(values['rank_fixed'])}"
    return f"{kind}={values['rank_' + kind]:g}" if kind in ("energy", "size") else "exact"


def options_of(
    values: Values, loras: Sequence[Mapping[str, Any]], folder: Path, *, cache: Path | None, device: str
) -> MergeOptions:
    """Validated options; `loras` are entries of a recipe. Raises InputError."""
    method = str(values["method"])
    given = {
        setting.field.name: _typed(values[setting.name], setting.field)
        for setting in ADVANCED
        if setting.method == method or (not setting.method and get_method(method).needs_statistics)
    }
    raw: dict[str, Any] = {name: _typed(values[name], FIELDS[name]) for name in PLAIN}
    raw |= {
        "lora": list(loras),
        "rank": rank_of(values),
        "device": device,
        "option": given,
        "out": str(lora_path(folder, str(values["name"]))),
    }
    if cache is not None:
        raw["cache"] = str(cache)
    return parse_merge_options(raw)


def from_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Values by name for what a merged file's recipe says; what it does not say, or says wrongly, is left out."""
    reader = FieldReader(problems=[])
    values, _ = reader.values({name: FIELDS[name] for name in ("preset", "dtype", "seed")}, recipe)
    method = recipe.get("method")
    if isinstance(method, str) and method in METHODS:
        values["method"] = method
    if values.keys() >= {"method", "preset"}:
        values["preset"], values["method"] = settle(values["preset"], values["method"], changed="method")
    values |= _rank_values(recipe.get("rank"))
    options = recipe.get("option")
    if isinstance(options, Mapping):
        advanced = {setting.name: setting.field for setting in ADVANCED if setting.method in ("", values.get("method"))}
        options, _ = reader.values(advanced, options)
        values |= {name: as_value(advanced[name], value) for name, value in options.items()}
    return values


def _rank_values(text: Any) -> dict[str, Any]:
    if not isinstance(text, str):
        return {}
    try:
        policy = RankPolicy.parse(text)
    except InputError:
        return {}
    value = int(policy.value) if policy.kind == "fixed" else policy.value
    return {"rank_kind": policy.kind} | ({} if policy.kind == "exact" else {f"rank_{policy.kind}": value})


def next_name(folder: Path, name: str) -> str:
    """A name that is free, for the next merge of a series."""
    return free_name(folder, name)


def _typed(value: Any, field: Field) -> Any:
    return _whole(value) if field.type == "whole" else value


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
