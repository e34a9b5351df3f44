"""Prompt templates and settings."""

from __future__ import annotations

import pytest

from lib_loraclr.capture import CaptureSettings, prompts
from lib_loraclr.capture.concept import guess_kind
from lib_loraclr.core.errors import InputError


def test_held_out_prompts_are_never_captured() -> None:
    seen = {*prompts.TEXT_TEMPLATES, *prompts.SAMPLE_TEMPLATES}
    assert not seen & set(prompts.HELD_OUT_TEMPLATES)
    captured = {p for first in range(12) for p in prompts.filled(prompts.TEXT_TEMPLATES, "xyz dog", first, 16)}
    held_out = {p for first in range(12) for p in prompts.filled(prompts.HELD_OUT_TEMPLATES, "xyz dog", first, 4)}
    assert not captured & held_out
    assert len(captured) > 16  # {other} rotates


@pytest.mark.parametrize(
    ("trigger", "class_word", "expected"),
    [
        ("ann4", "woman", "ann4 woman"),
        ("ann4 Woman", "woman", "ann4 Woman"),
        ("an old woman", "man", "an old woman man"),
        ("", "elf", "an elf"),
        ("", "dog", "a dog"),
        (" sketchy ", "", "sketchy"),
        ("warhol", "style", "warhol style"),
        ("", "", ""),
    ],
)
def test_phrase(trigger: str, class_word: str, expected: str) -> None:
    assert prompts.phrase(trigger, class_word) == expected


def test_styles_are_drawn_on_other_things() -> None:
    subject = CaptureSettings().templates
    assert prompts.templates_for("character", "otto man", subject) is subject
    style = prompts.templates_for("style", "by warhol", subject)
    assert all("{c}" in t for t in (*style.text, *style.sample, *style.held_out))
    assert sum("{other}" in t for t in style.sample) == len(style.sample)
    uncalled = prompts.templates_for("character", "", subject)
    assert not any("{c}" in t for t in (*uncalled.text, *uncalled.sample, *uncalled.held_out))
    thing = prompts.templates_for("object", "brk mug", subject)
    assert thing.held_out == subject.held_out
    for templates in (style, uncalled, thing):
        assert not {*templates.text, *templates.sample} & set(templates.held_out)


@pytest.mark.parametrize(
    ("trigger", "class_word", "kind"),
    [("ink style", "", "style"), ("ink", "style", "style"), ("by ink", "", "character"), ("brk", "mug", "character")],
)
def test_the_kind_that_version_0_1_0_took_a_lora_for(trigger: str, class_word: str, kind: str) -> None:
    assert guess_kind(trigger, class_word) == kind


def test_neutral_prompts_alternate_scenes_and_class_words() -> None:
    found = prompts.neutral(["Dog", "elf", "dog", ""], ("", "a forest", "the beach"))
    assert found[:4] == ("", "a photo of a dog", "a forest", "a photo of an elf")
    assert len(found) == len(set(found)) == 3 + 2 * len(prompts.CLASS_TEMPLATES)
    assert prompts.neutral([""], ("", "a forest")) == ("", "a forest")


def test_filled_takes_templates_in_turn_and_leaves_out_the_own_class() -> None:
    assert prompts.filled(("{c}", "{c} and {other}"), "r3x dog", 0, 3) == ("r3x dog", "r3x dog and a man", "r3x dog")
    assert prompts.filled(("{c}", "{c} and {other}"), "ann4", 1, 1) == ("ann4 and a woman",)
    assert all("dog" not in p.replace("r3x dog", "") for p in prompts.filled(("{c} {other}",), "r3x dog", 0, 20))
    assert prompts.in_turn(("a", "b", "c"), 2, 3) == ("c", "a", "b")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("preset", "instant"), ("steps", 0), ("prompts", 0), ("batch", 0), ("padding_weight", 1.5), ("cfg_scale", 0.5),
        ("neutral_prompts", -1), ("held_out_prompts", -1), ("memory_budget_mib", 0), ("max_features", 0),
        ("size", (0, 64)), ("text_templates", ()), ("text_templates", ("no concept",)),
        ("sample_templates", ("{c} {oops}",)), ("sample_templates", ("{c} {",)),
        ("held_out_templates", ("a photo of {c}",)),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"option {name} ") as caught:
        CaptureSettings(**{name: value})  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.key) == ("bad-option", name)
