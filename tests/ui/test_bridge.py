"""The bridge between a page's script and this process: every question has an answer with its serial number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from lib_loraclr.core.errors import InputError
from lib_loraclr.frontends.bridge import Bridge


def refuse(question: Mapping[str, Any]) -> dict[str, Any]:
    raise InputError("too-many", "There are too many.", key="names")


def fail(question: Mapping[str, Any]) -> dict[str, Any]:
    raise ZeroDivisionError("our own mistake")


BRIDGE = Bridge({"twice": lambda question: {"twice": 2 * question["value"]}, "refuse": refuse, "fail": fail})


def ask(text: str) -> dict[str, Any]:
    return json.loads(BRIDGE.answer(text))


def test_an_answer_has_the_serial_number_of_its_question() -> None:
    for serial in (1, 7):
        assert ask(json.dumps({"serial": serial, "question": "twice", "value": 4})) == {"serial": serial, "twice": 8}


@pytest.mark.parametrize(
    ("question", "code"),
    [("refuse", "too-many"), ("fail", "unexpected"), ("twice", "unexpected"), ("nothing", "bad-question")],
)
def test_a_failure_is_an_answer(question: str, code: str) -> None:
    answer = ask(json.dumps({"serial": 3, "question": question}))
    assert answer["serial"] == 3
    assert answer["error"]["code"] == code
    assert answer["error"]["message"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7"])
def test_what_is_no_question_gets_an_answer_too(text: str) -> None:
    answer = ask(text)
    assert answer["serial"] is None
    assert answer["error"]["message"]
