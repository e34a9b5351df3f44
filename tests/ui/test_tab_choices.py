"""Picker and cards: what is shown of a file, why one cannot be chosen, and what the page's state becomes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ui_parts import FakeApplication, write_lora

from lib_loraclr.app.application import CatalogueEntry
from lib_loraclr.capture.prompts import EVERYTHING, OBJECT_TEMPLATES, SAMPLE_TEMPLATES, STYLE_SAMPLE_TEMPLATES
from lib_loraclr.core.errors import InputError
from lib_loraclr.formats import describe, read_lora
from lib_loraclr.formats.safetensors_io import SafetensorsFile
from lib_loraclr.frontends.tab.choices import (
    Choice,
    complete,
    from_recipe,
    parse_choices,
    preferred_weight,
    suggested_kind,
    usual_prompts,
)
from lib_loraclr.frontends.tab.facts import Facts, FileFacts
from lib_loraclr.frontends.tab.views import OTHER_BASE, Card, card_html, cards_html, list_html, row_html, row_of


def test_a_header_tells_what_the_whole_file_tells(folder: Path) -> None:
    whole, header = read_lora(folder / "anna.safetensors"), read_lora(folder / "anna.safetensors", values=False)
    assert header.sha256 == ""
    assert {**describe(whole), "sha256": ""} == describe(header)


def test_facts_read_no_weights_and_every_version_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    once = SafetensorsFile.open
    monkeypatch.setattr(SafetensorsFile, "open", lambda path: opened.append(path) or once(path))
    files, path = FileFacts(), folder / "anna.safetensors"
    assert files.facts(path).ranks == (4,)
    assert files.facts(path) is files.facts(path)
    assert opened == [path]
    write_lora(path, 1, 6)
    assert files.facts(path).rank_text == "6"
    path.unlink()
    assert files.facts(path).problem


def test_rows_say_why_a_file_cannot_be_chosen(application: FakeApplication, folder: Path) -> None:
    files, model = FileFacts(), application.model()
    rows = {
        entry.name: row_of(entry, files.facts(entry.path), files.thumbnail(entry.thumbnail), model, folder)
        for entry in application.catalogue.entries()
    }
    assert rows["anna"].reason == rows["ben"].reason == rows["ink"].reason == ""
    assert rows["xl"].reason == OTHER_BASE
    assert "truncated" in rows["cut"].reason
    assert rows["ink"].place == "below"
    assert rows["anna"].thumbnail.startswith("data:image/jpeg;base64,")
    assert rows["ben"].thumbnail == ""
    html = row_html(rows["anna"])
    assert "SD 1" in html
    assert "<span>rank</span> 4" in html
    assert "SDXL" in row_html(rows["xl"])


def test_without_a_checkpoint_every_family_can_be_chosen(application: FakeApplication, folder: Path) -> None:
    entry = next(entry for entry in application.catalogue.entries() if entry.name == "xl")
    assert row_of(entry, FileFacts().facts(entry.path), "", None, folder).reason == ""


def test_the_list_itself_reads_no_file(application: FakeApplication, folder: Path) -> None:
    entries = application.catalogue.entries()
    for entry in entries:
        entry.path.unlink()
    html = list_html(entries, folder)
    assert html.count('role="option"') == 5
    assert 'data-search="ink below ' in html


def test_names_from_files_cannot_break_out_of_the_page(folder: Path) -> None:
    name = '"><img src=x onerror=alert(1)>'
    entry = CatalogueEntry(name, folder / "anna.safetensors", None, {"activation text": name})
    choice = complete({"name": name}, entry, Facts(triggers=(name,), tags=(name,)))
    texts = [list_html([entry], folder), card_html(Card(choice, entry, Facts(tags=(name,)))), cards_html([], [name])]
    texts.append(row_html(row_of(entry, Facts(problem=name), "", None, folder)))
    assert all("<img" not in text and 'src=x onerror=alert(1)>"' not in text for text in texts)


def test_a_new_card_is_filled_from_notes_then_from_the_file(folder: Path, application: FakeApplication) -> None:
    entries = {entry.name: entry for entry in application.catalogue.entries()}
    files = FileFacts()
    ben = complete({"name": "ben"}, entries["ben"], files.facts(entries["ben"].path))
    anna = complete({"name": "anna"}, entries["anna"], files.facts(entries["anna"].path))
    assert (ben.trigger, ben.class_word, ben.kind, ben.weight) == ("ben cup", "cup", "object", "0.8")
    assert (anna.trigger, anna.class_word, anna.kind, anna.weight) == ("anna woman", "woman", "character", "1")
    assert ben.prompts == OBJECT_TEMPLATES
    given = {"name": "anna", "trigger": "", "weight": "0.5", "te_weight": "0", "class_word": "elf", "kind": "style"}
    again = complete(given, entries["anna"], files.facts(entries["anna"].path))
    assert (again.trigger, again.weight, again.te_weight, again.class_word) == ("", "0.5", "0", "elf")
    assert again.prompts == STYLE_SAMPLE_TEMPLATES


def test_own_prompts_survive_another_kind_and_usual_ones_follow_it(folder: Path) -> None:
    entry = CatalogueEntry("anna", folder / "anna.safetensors")
    base = {"name": "anna", "trigger": "anna"}
    own = complete({**base, "kind": "style", "prompts": "{c} on Mars\n\n  {c} as {other} "}, entry, Facts())
    assert own.prompts == ("{c} on Mars", "{c} as {other}")
    usual = complete({**base, "kind": "style", "prompts": "\n".join(SAMPLE_TEMPLATES)}, entry, Facts())
    assert usual.prompts == STYLE_SAMPLE_TEMPLATES


@pytest.mark.parametrize(
    ("kind", "trigger", "prompts", "expected"),
    [
        ("character", "anna", SAMPLE_TEMPLATES, ()),
        ("object", "brk toy", OBJECT_TEMPLATES, ()),
        ("style", "ink style", STYLE_SAMPLE_TEMPLATES, ()),
        ("style", "by ink", STYLE_SAMPLE_TEMPLATES, ()),
        ("style", "", EVERYTHING, ()),
        ("character", "anna", ("{c} on Mars",), ("{c} on Mars",)),
    ],
)
def test_the_job_gets_the_kind_and_prompts_only_where_they_are_not_the_usual_ones(
    folder: Path, kind: str, trigger: str, prompts: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    card = Choice("anna", kind=kind, trigger=trigger, prompts=prompts)
    recipe = card.as_recipe(CatalogueEntry("anna", folder / "anna.safetensors"))
    assert (recipe["kind"], recipe.get("prompts", [])) == (kind, list(expected))


def test_kinds_are_suggested_from_words() -> None:
    assert suggested_kind("anna_v2", "anna woman") == "character"
    assert suggested_kind("ghibli-style", "") == "style"
    assert suggested_kind("my mug", "brk") == "object"
    assert usual_prompts("character", "", "") == EVERYTHING


def test_weights_are_numbers_or_a_clear_error(folder: Path) -> None:
    entry = CatalogueEntry("anna", folder / "anna.safetensors")
    good = Choice("anna", "0,7", "0", trigger=" anna ").as_recipe(entry)
    assert (good["weight"], good["te_weight"], good["trigger"]) == (0.7, 0.0, "anna")
    assert "te_weight" not in Choice("anna", "1", " ").as_recipe(entry)
    for text in ("", "one", "nan", "inf", "1e999"):
        with pytest.raises(InputError) as caught:
            Choice("anna", text).as_recipe(entry)
        assert (caught.value.key, caught.value.file) == ("weight", "anna")


@pytest.mark.parametrize("raw", ["{", 3, [1], [{"weight": "1"}], None])
def test_a_damaged_selection(raw: object) -> None:
    with pytest.raises(InputError) as caught:
        parse_choices(raw)
    assert caught.value.code == "bad-selection"


def test_the_same_name_twice_is_one_choice() -> None:
    items = parse_choices([{"name": "a", "weight": 2}, {"name": "b"}, {"name": "a"}])
    assert items == [{"name": "a", "weight": "2"}, {"name": "b"}]


@pytest.mark.parametrize(
    ("given", "weight"), [(0.6, 0.6), (0, 1.0), ("x", 1.0), (True, 1.0), (None, 1.0), (float("nan"), 1.0)]
)
def test_preferred_weight(given: object, weight: float) -> None:
    assert preferred_weight({"preferred weight": given}) == weight


@pytest.mark.parametrize(
    ("called", "kind"), [({"trigger": "robo", "class_word": "robot"}, "character"), ({"trigger": "ink style"}, "style")]
)
def test_a_recipe_without_prompts_is_merged_without_prompts_again(folder: Path, called: dict, kind: str) -> None:
    """A robot would be guessed an object, which has prompts of its own."""
    entry = CatalogueEntry("anna", folder / "anna.safetensors")
    (item,), _ = from_recipe({"inputs": [{"file": "anna.safetensors", "weight": 1.0, **called}]}, {"anna": entry})
    card = complete(item, entry, Facts())
    assert card.kind == kind
    assert "prompts" not in card.as_recipe(entry)


@pytest.mark.parametrize("prompts", [[], ["{other} in the manner of {c}"]])
def test_a_style_comes_back_from_its_recipe_as_a_style(folder: Path, prompts: list[str]) -> None:
    entry = CatalogueEntry("anna", folder / "anna.safetensors")
    stored = {"file": "anna.safetensors", "weight": 1.0, "trigger": "by ink", "class_word": "", "kind": "style"}
    (item,), _ = from_recipe({"inputs": [stored | ({"prompts": prompts} if prompts else {})]}, {"anna": entry})
    again = complete(item, entry, Facts()).as_recipe(entry)
    assert (again["kind"], again.get("prompts", [])) == ("style", prompts)


@pytest.mark.parametrize(("kind", "prompts"), [("object", OBJECT_TEMPLATES), ("style", STYLE_SAMPLE_TEMPLATES)])
def test_an_old_recipe_tells_its_kind_by_its_prompts(folder: Path, kind: str, prompts: tuple[str, ...]) -> None:
    entry = CatalogueEntry("anna", folder / "anna.safetensors")
    stored = {"file": "anna.safetensors", "trigger": "brk", "prompts": list(prompts)}
    (item,), _ = from_recipe({"inputs": [stored]}, {"anna": entry})
    assert complete(item, entry, Facts()).as_recipe(entry)["kind"] == kind


def test_a_recipe_becomes_cards_and_names_what_is_missing(folder: Path) -> None:
    entries = {"anna": CatalogueEntry("anna", folder / "anna.safetensors")}
    recipe = {
        "inputs": [
            {"file": "anna.safetensors", "weight": 0.5, "te_weight": 0.25, "trigger": "x", "prompts": ["{c} far away"]},
            {"file": "gone.safetensors"},
            "damaged",
        ]
    }
    items, missing = from_recipe(recipe, entries)
    assert missing == ["gone.safetensors"]
    assert items == [
        {"name": "anna", "weight": "0.5", "te_weight": "0.25", "trigger": "x", "prompts": "{c} far away",
         "kind": "character"}
    ]  # fmt: skip
    assert json.loads(json.dumps(items)) == items
