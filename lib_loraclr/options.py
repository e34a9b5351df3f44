"""One description of an option, and everything that is made of it.

A `Field` says once what an option is called, of which type and range it is, what it does, and how a control shows it.
The options of a merge method are a plain tuple of fields; where options are a dataclass, each attribute carries its
field (`option`). From them come reading and checking (`FieldReader`, with one wording of errors), writing (`as_json`),
JSON schemas (`json_schema`), the command line with its help, the API's request, the tab's and the panel's controls.

Users' data outlive names: a field reads its `aliases`, and old spellings of its choices, and writes the new ones.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, cast

from lib_loraclr.core.errors import InputError

YES, NO = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
_KINDS: dict[type, str] = {bool: "flag", int: "whole", float: "number", str: "text"}
_JSON_TYPES = {
    "flag": "boolean", "whole": "integer", "number": "number", "text": "string", "path": "string", "size": "string",
    "span": "array", "list": "array", "table": "object", "part": "object",
    "any": "string",
}  # fmt: skip


@dataclass(frozen=True)
class Field:
    """One option: enough to check a value, parse a command line, write a schema and draw a control.

    kind      flag, whole, number, text, path; size (WIDTHxHEIGHT or "native", read as a pair or None); span (two
              numbers, the first not above the second); part (an object of the dataclass `part`); list (of such objects,
              of texts that `entry` reads, or, with neither, of texts); table (an object as it is);
              any (what `check` makes of it). None said: that of the default
    low, high inclusive limits of a number, both numbers of a span, and (`high`) the length of a text
    choices   allowed texts, or a mapping of them to how a control calls them; `renamed` maps old spellings to new ones
    check     takes the value that the kind has read, and returns it or raises ValueError with what it must be
    optional  null is a value of its own; `required` means that there is no default
    aliases   old names, which are still read
    title     what a control is called; `group` where it stands; `form` how it differs from what the rest says
    """

    name: str
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    choices: Sequence[str] | Mapping[str, str] = ()
    kind: str = ""
    optional: bool = False
    required: bool = False
    aliases: tuple[str, ...] = ()
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    part: type[Any] | None = None
    entry: Callable[[str, Path | None], Any] | None = None
    check: Callable[[Any], Any] | None = None
    title: str = ""
    group: str = ""
    metavar: str = ""
    form: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])

    @property
    def type(self) -> str:
        """The kind, where none is said that of the default."""
        return self.kind or ("part" if self.part else _KINDS.get(type(self.default), "text"))

    @property
    def label(self) -> str:
        """The title, else the name in words."""
        return self.title or self.name.replace("_", " ").capitalize()

    @property
    def range(self) -> str:
        """The limits in words; "" without any."""
        if self.low is None or self.high is None:
            return f"at least {self.low:g}" if self.low is not None else f"at most {self.high:g}" if self.high else ""
        return f"{self.low:g} to {self.high:g}"

    def attribute(self) -> Any:
        """A dataclass attribute with this field: the same option in another dataclass."""
        metadata = {"field": self}
        if self.required:
            return dataclasses.field(metadata=metadata)
        if self.type in ("part", "table"):
            return dataclasses.field(default_factory=self.part or dict[str, Any], metadata=metadata)
        return dataclasses.field(default=self.default, metadata=metadata)

    def words(self, choice: str) -> str:
        """How a control calls one of the choices."""
        return self.choices.get(choice, choice) if isinstance(self.choices, Mapping) else choice

    def holds(self, number: float) -> bool:
        """Whether a number is within the limits."""
        return (self.low is None or number >= self.low) and (self.high is None or number <= self.high)


@dataclass(frozen=True)
class Retired:
    """An option that was removed: old recipes hold it, and its only remaining `value` is accepted and forgotten."""

    name: str
    value: Any
    because: str


Fields = Mapping[str, Field]


def option(default: Any, help: str, low: float | None = None, high: float | None = None, **more: Any) -> Any:  # noqa: A002
    """A dataclass attribute with the `Field` of its name; a `part` without a default is made with its own defaults."""
    return Field(more.pop("name", ""), default, help, low, high, **more).attribute()


@cache
def fields_of(kind: type[Any]) -> Fields:
    """Attribute -> its field, of a dataclass, in order; attributes without a description are left out."""
    return {
        item.name: dataclasses.replace(described, name=described.name or item.name)
        for item in dataclasses.fields(kind)
        if isinstance(described := item.metadata.get("field"), Field)
    }


def by_name(fields: Sequence[Field]) -> Fields:
    """A plain list of fields as a mapping."""
    return {field.name: field for field in fields}


def new_names(fields: Fields, raw: Mapping[str, Any]) -> dict[str, Any]:
    """`raw` with the new names of its fields; of two spellings of one field the later one counts."""
    new = {alias: field.name for field in fields.values() for alias in field.aliases}
    return {new.get(str(name), str(name)): value for name, value in raw.items()}


def all_new_names(kind: type[Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """`new_names` of a dataclass's object and of the objects in it; values are not checked."""
    data = new_names(fields_of(kind), raw)
    for field in fields_of(kind).values():
        if field.part is not None and isinstance(data.get(field.name), Mapping):
            data[field.name] = all_new_names(field.part, data[field.name])
    return data


@dataclass(frozen=True)
class FieldReader:
    """Typed values out of untyped data (JSON, forms, arguments), with errors that name the place.

    `file` is what an error names, `folder` where relative paths start, `code` the code of an error about a value. With
    `texts` numbers and flags may be texts, as from a command line. With `problems` errors about values are collected
    there, and the value is left out; otherwise the first is raised.
    """

    file: str | None = None
    folder: Path | None = None
    code: str = "bad-option"
    texts: bool = False
    problems: list[InputError] | None = None

    def make(self, kind: type[Any], raw: Any, place: str = "") -> Any:
        """A dataclass from its object. Unknown names go into its `extra`; InputError where it has none."""
        values, unknown = self.values(fields_of(kind), raw, place)
        if "extra" in {item.name for item in dataclasses.fields(kind)}:
            return kind(**values, extra=unknown)
        self.refuse(unknown, fields_of(kind), place)
        return kind(**values)

    def values(
        self, fields: Fields, raw: Any, place: str = "", retired: Sequence[Retired] = ()
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """(values of the fields that are there, by attribute; what belongs to no field). Null means absent.

        InputError "missing-option" for a required field.
        """
        given = self._object(raw, place)
        data = new_names(fields, given)
        spelled: dict[str, str] = new_names(fields, {name: name for name in given})
        values: dict[str, Any] = {}
        for attribute, field in fields.items():
            where = _inside(place, spelled.get(field.name, field.name))  # as the user has written it
            if (field.name in data and self.texts) or data.get(field.name) is not None:
                try:
                    values[attribute] = self.value(field, data[field.name], where)
                except InputError as error:
                    if self.problems is None:
                        raise
                    self.problems.append(error)
            data.pop(field.name, None)
            if field.required and values.get(attribute) is None:
                raise InputError("missing-option", f"'{where}' is missing.", file=self.file, key=where)
        for old in retired:
            if old.name in data and str(data.pop(old.name)) != str(old.value):
                message = f"The option {old.name} can only be '{old.value}' now: {old.because}"
                raise InputError(self.code, message, file=self.file, key=_inside(place, old.name))
        return values, data

    def value(self, field: Field, raw: Any, place: str = "") -> Any:
        """`raw` as the field's type within its limits. Raises InputError with `place`, else the name, as key."""
        place = place or field.name
        try:
            value = self._typed(field, raw, place)
            return value if field.check is None or value is None else field.check(value)
        except ValueError as right:
            raise self.wrong(place, str(right), raw) from None

    def wrong(self, place: str, right: str, raw: Any) -> InputError:
        """The error for a value of the wrong type or range: the one wording of it."""
        shown = f"'{raw}'" if isinstance(raw, str) else repr(raw)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        message = f"The option {place} must be {right}, not {shown}."
        return InputError(self.code, message, file=self.file, key=place)

    def refuse(self, unknown: Mapping[str, Any], fields: Fields, place: str = "", code: str = "unknown-option") -> None:
        """Raise InputError for the first unknown name."""
        for name in unknown:
            key, known = _inside(place, name), ", ".join(field.name for field in fields.values()) or "none"
            raise InputError(code, f"'{key}' is not an option; known: {known}.", file=self.file, key=key)

    def _typed(self, field: Field, raw: Any, place: str) -> Any:
        if raw is None and field.optional:
            return None
        return self._readers[field.type](self, field, raw, place)

    def _number(self, field: Field, raw: Any, place: str) -> float:
        whole = field.type == "whole"
        words = "a whole number" if whole else "a finite number"
        if self.texts and isinstance(raw, str):
            try:
                raw = float(raw)
            except ValueError:
                raise ValueError(words) from None
        if isinstance(raw, bool) or not isinstance(raw, int | float):
            raise ValueError(words)
        try:
            number = float(raw)
        except OverflowError:
            raise ValueError(words) from None
        if not math.isfinite(number) or (whole and not number.is_integer()):
            raise ValueError(words)
        if not field.holds(number):
            raise ValueError(field.range)
        return int(raw) if whole else number

    def _flag(self, field: Field, raw: Any, place: str) -> bool:
        if isinstance(raw, bool):
            return raw
        word = str(raw).strip().lower() if self.texts else ""
        if word not in (*YES, *NO):
            raise ValueError("true or false")
        return word in YES

    def _span(self, field: Field, raw: Any, place: str) -> tuple[float, float]:
        if not isinstance(raw, Sequence) or isinstance(raw, str) or len(cast("Sequence[Any]", raw)) != 2:
            raise ValueError("a list of 2 numbers")
        first, last = (self._number(field, number, place) for number in cast("Sequence[Any]", raw))
        if first > last:
            raise ValueError("a span that does not end before it starts")
        return first, last

    def _word(self, field: Field, raw: Any, place: str) -> str:
        word = str(raw) if self.texts else _text(raw)
        word = field.renamed.get(word, word)
        if field.choices and word not in field.choices:
            raise ValueError("one of " + ", ".join(field.choices))
        if field.high is not None and len(word) > field.high:
            raise ValueError(f"text of at most {field.high:g} characters")
        return word

    def _size(self, field: Field, raw: Any, place: str) -> tuple[int, int] | None:
        """(width, height) of WIDTHxHEIGHT; None for "native"."""
        if raw == "native":
            return None
        sides = [int(side) if side.isdecimal() else 0 for side in str(raw).lower().split("x")]
        if len(sides) != 2 or any(side < 8 or side % 8 for side in sides):
            raise ValueError("a size such as 512x768 in multiples of 8")
        return sides[0], sides[1]

    def _path(self, field: Field, raw: Any, place: str) -> Path | None:
        """Empty text is no path."""
        word = _text(str(raw) if isinstance(raw, Path) else raw)
        return resolve(word, self.folder) if word else None

    def _any(self, field: Field, raw: Any, place: str) -> Any:
        return raw

    def _part(self, field: Field, raw: Any, place: str) -> Any:
        return self.make(field.part or dict, raw, place)

    def _table(self, field: Field, raw: Any, place: str) -> dict[str, Any]:
        return self._object(raw, place)

    def _object(self, raw: Any, place: str) -> dict[str, Any]:
        if not isinstance(raw, Mapping):
            raise self.wrong(place, "an object", raw)
        return {str(name): value for name, value in cast("Mapping[Any, Any]", raw).items()}

    def _list(self, field: Field, raw: Any, place: str) -> tuple[Any, ...]:
        if not isinstance(raw, list | tuple):
            raise ValueError("a list")
        items = cast("Sequence[Any]", raw)
        if field.part is None and not all(isinstance(item, str) for item in items):
            raise ValueError("a list of texts")
        return tuple(self._item(field, item, f"{place}[{index}]") for index, item in enumerate(items))

    def _item(self, field: Field, raw: Any, place: str) -> Any:
        if isinstance(raw, str) and (field.entry is not None or field.part is None):
            return raw if field.entry is None else field.entry(raw, self.folder)
        if field.part is None or not isinstance(raw, Mapping):
            raise self.wrong(place, f"a text {field.metavar} or an object" if field.entry else "an object", raw)
        return self.make(field.part, raw, place)

    _readers: ClassVar[dict[str, Callable[[FieldReader, Field, Any, str], Any]]] = {
        "flag": _flag, "whole": _number, "number": _number, "text": _word, "path": _path, "size": _size, "span": _span,
        "part": _part, "list": _list, "table": _table, "any": _any,
    }  # fmt: skip


def complete(fields: Sequence[Field], raw: Mapping[str, Any], retired: Sequence[Retired] = ()) -> dict[str, Any]:
    """Every field's value, from `raw` (typed, or its text) or its default. Raises InputError "bad-option"."""
    reader, known = FieldReader(texts=True), by_name(fields)
    values, unknown = reader.values(known, raw, retired=retired)
    reader.refuse(unknown, known, code="bad-option")
    return {name: values.get(name, field.default) for name, field in known.items()}


def check(settings: Any) -> None:
    """The described attributes of a dataclass instance, as reading them would, by attribute. Raises InputError."""
    reader = FieldReader()
    for attribute, field in fields_of(type(settings)).items():
        if field.part is None and field.type not in ("path", "table"):  # what was made of objects is checked
            reader.value(field, as_value(field, getattr(settings, attribute)), attribute)


def as_value(field: Field, value: Any, *, full: bool = False, empty: bool = True) -> Any:
    """A value as JSON holds it; the objects of a list as `as_json` makes them."""
    if field.type == "size":
        return "native" if value is None else "x".join(map(str, value))
    if field.type == "path":
        return None if value is None else str(value)
    if isinstance(value, tuple):
        items = cast("tuple[Any, ...]", value)
        return [as_json(item, full=full, empty=empty) if field.part else item for item in items]
    if isinstance(value, Mapping):
        return dict(sorted(cast("Mapping[str, Any]", value).items()))
    return value


def as_json(value: Any, *, full: bool = False, empty: bool = True) -> dict[str, Any]:
    """A dataclass as its JSON object; fields at their default are left out unless `full`. `extra` comes back.

    Without `empty` null and empty lists are left out, too.
    """
    data: dict[str, Any] = {}
    for attribute, field in fields_of(type(value)).items():
        current = getattr(value, attribute)
        if field.part is not None and field.type == "part":
            inner = as_json(current, full=full, empty=empty)
            data |= {field.name: inner} if inner else {}
        elif (full or current != field.default) and (empty or current not in (None, ())):
            data[field.name] = as_value(field, current, full=full, empty=empty)
    return {**data, **getattr(value, "extra", {})}


def json_schema(kind: type[Any]) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a dataclass, with defaults and a sentence for every field."""
    return object_schema(fields_of(kind))


def object_schema(fields: Fields) -> dict[str, Any]:
    """JSON Schema of an object with these fields."""
    required = [field.name for field in fields.values() if field.required]
    properties = {field.name: field_schema(field) for field in fields.values()}
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def field_schema(field: Field) -> dict[str, Any]:
    """JSON Schema of one field."""
    if field.part is not None and field.type == "part":
        return {**json_schema(field.part), "description": field.help}
    name = _JSON_TYPES[field.type]
    schema: dict[str, Any] = {"type": [name, "null"] if field.optional else name, "description": field.help}
    if not field.required:
        schema["default"] = as_value(field, field.default)
    limits = {key: value for key, value in (("minimum", field.low), ("maximum", field.high)) if value is not None}
    if field.type == "span":
        schema |= {"minItems": 2, "maxItems": 2, "items": {"type": "number", **limits}}
    elif field.type == "list":
        schema["items"] = {"type": "string"} if field.part is None else json_schema(field.part)
    elif field.type == "text":
        schema |= {} if field.high is None else {"maxLength": int(field.high)}
    else:
        schema |= limits
    return schema | ({"enum": list(field.choices)} if field.choices else {})


def resolve(path: str, folder: Path | None) -> Path:
    """A path as the user wrote it, `~` expanded, against `folder` when relative."""
    return Path(path).expanduser() if folder is None else folder / Path(path).expanduser()


def _text(raw: Any) -> str:
    if not isinstance(raw, str):
        raise ValueError("text")
    return raw


def _inside(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
