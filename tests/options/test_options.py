"""The one description of an option: what it reads, what it refuses and in which words, and what it writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lib_loraclr.core.errors import InputError
from lib_loraclr.options import (
    Field,
    FieldReader,
    Retired,
    as_json,
    as_value,
    check,
    complete,
    field_schema,
    fields_of,
    json_schema,
    new_names,
    option,
)


@dataclass(frozen=True)
class Lamp:
    bulb: str = option("warm", "colour", choices={"warm": "Warm white", "cold": "Cold white"}, renamed={"hot": "warm"})
    watts: int = option(7, "power", 1, 100, aliases=("w",))
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Room:
    name: str = option("", "what it is called", required=True)
    height: float = option(2.5, "metres", 2.0, 9.0, aliases=("h",))
    dark: bool = option(False, "no window")
    hours: tuple[float, float] = option((0.0, 1.0), "when", 0.0, 1.0, kind="span")
    size: tuple[int, int] | None = option(None, "pixels", kind="size")
    plan: Path | None = option(None, "a file", kind="path")
    lamp: Lamp = option(None, "the light", part=Lamp)
    others: tuple[Lamp, ...] = option((), "more", kind="list", part=Lamp)
    tags: tuple[str, ...] = option((), "words", kind="list")


GOOD: dict[str, Any] = {"name": "hall"}


def test_absent_and_null_are_the_default_and_what_is_written_is_read_again() -> None:
    assert FieldReader().make(Room, {**GOOD, "height": None}) == Room("hall")
    room = Room(
        "hall", 3.0, True, (0.25, 0.5), (512, 768), Path("/a"), Lamp("cold", 9, {"later": 1}), (Lamp(),), ("x",)
    )
    for full in (False, True):
        data = json.loads(json.dumps(as_json(room, full=full)))
        assert FieldReader().make(Room, data) == room
    assert as_json(Room("hall")) == {"name": "hall"}
    assert as_json(Room("hall"), full=True)["size"] == "native"


def test_old_names_and_old_choices_are_read_and_the_new_ones_written() -> None:
    room = FieldReader().make(Room, {**GOOD, "h": 3, "lamp": {"w": 40, "bulb": "hot"}})
    assert (room.height, room.lamp) == (3.0, Lamp("warm", 40))
    assert as_json(room) == {"name": "hall", "height": 3.0, "lamp": {"watts": 40}}
    assert new_names(fields_of(Room), {"height": 4, "h": 3}) == {"height": 3}
    assert new_names(fields_of(Room), {"h": 3, "height": 4}) == {"height": 4}


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        ({"height": "3"}, "height", "The option height must be a finite number, not '3'."),
        ({"height": True}, "height", "a finite number"),
        ({"height": 10**400}, "height", "a finite number"),
        ({"height": float("nan")}, "height", "a finite number"),
        ({"height": 1}, "height", "The option height must be 2 to 9, not 1."),
        ({"dark": 1}, "dark", "true or false"),
        ({"hours": [0.5, 0.2]}, "hours", "end before"),
        ({"hours": [0.5]}, "hours", "a list of 2 numbers"),
        ({"hours": [0, 2]}, "hours", "0 to 1"),
        ({"size": "512"}, "size", "a size such as 512x768"),
        ({"size": "512x770"}, "size", "multiples of 8"),
        ({"lamp": 3}, "lamp", "an object"),
        ({"lamp": {"watts": 2.5}}, "lamp.watts", "a whole number"),
        ({"lamp": {"bulb": "red"}}, "lamp.bulb", "one of warm, cold"),
        ({"others": [{"watts": 0}]}, "others[0].watts", "1 to 100"),
        ({"others": [3]}, "others[0]", "an object"),
        ({"others": {}}, "others", "a list"),
        ({"tags": ["a", 3]}, "tags", "a list of texts"),
        ({"name": 3}, "name", "text"),
    ],
)
def test_one_wording_names_the_place(change: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        FieldReader(file="room.json").make(Room, {**GOOD, **change})
    assert (caught.value.code, caught.value.key, caught.value.file) == ("bad-option", key, "room.json")
    assert words in caught.value.message


def test_unknown_and_missing_names() -> None:
    for raw, code, key in (({**GOOD, "colour": 1}, "unknown-option", "colour"), ({}, "missing-option", "name")):
        with pytest.raises(InputError) as caught:
            FieldReader().make(Room, raw)
        assert (caught.value.code, caught.value.key) == (code, key)
    assert FieldReader().make(Lamp, {"later": 1}).extra == {"later": 1}


def test_problems_are_collected_where_that_is_wanted() -> None:
    reader = FieldReader(code="bad-room", problems=[])
    assert reader.make(Room, {**GOOD, "height": 1, "dark": 3, "lamp": {"watts": 8, "bulb": 1}}) == Room(
        "hall", lamp=Lamp(watts=8)
    )
    assert reader.problems is not None
    assert [(problem.code, problem.key) for problem in reader.problems] == [
        ("bad-room", "height"), ("bad-room", "dark"), ("bad-room", "lamp.bulb"),
    ]  # fmt: skip


def test_texts_of_a_command_line_become_values() -> None:
    fields = (
        Field("on", False, ""),
        Field("count", 1, ""),
        Field("share", 0.5, ""),
        Field("size", None, "", kind="size"),
    )
    texts = {"on": "yes", "count": "3.0", "share": "1", "size": "64x128"}
    assert complete(fields, texts) == {"on": True, "count": 3, "share": 1.0, "size": (64, 128)}
    assert complete(fields, {}) == {"on": False, "count": 1, "share": 0.5, "size": None}
    assert as_value(fields[3], (64, 128)) == "64x128"


def test_a_retired_option_is_read_with_its_only_value() -> None:
    old, fields = Retired("speed", "slow", "the fast one is gone."), (Field("count", 1, ""),)
    assert complete(fields, {"speed": "slow", "count": 2}, [old]) == {"count": 2}
    with pytest.raises(InputError, match="can only be 'slow' now: the fast one is gone") as caught:
        complete(fields, {"speed": "fast"}, [old])
    assert (caught.value.code, caught.value.key) == ("bad-option", "speed")


def test_settings_check_themselves_by_attribute() -> None:
    check(Room("hall", size=(64, 64)))
    with pytest.raises(InputError) as caught:
        check(Room("hall", 1.0))
    assert caught.value.key == "height"


def test_the_schema_has_limits_choices_and_a_sentence() -> None:
    schema = json_schema(Room)
    assert schema["required"] == ["name"]
    assert schema["properties"]["height"] == {
        "type": "number", "description": "metres", "default": 2.5, "minimum": 2.0, "maximum": 9.0
    }  # fmt: skip
    assert schema["properties"]["lamp"]["properties"]["bulb"]["enum"] == ["warm", "cold"]
    assert field_schema(fields_of(Room)["hours"])["items"] == {"type": "number", "minimum": 0.0, "maximum": 1.0}
    json.dumps(schema)
