"""One card per chosen LoRA: how strong it is, what calls it, what the model draws while it is watched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from lib_loraclr.app.application import CatalogueEntry
from lib_loraclr.capture.concept import KINDS
from lib_loraclr.frontends.tab.choices import Choice
from lib_loraclr.frontends.tab.facts import Facts
from lib_loraclr.frontends.tab.picker import picture_html
from lib_loraclr.frontends.words import note, tag

NO_TRIGGER = "No word calls this LoRA: it will act on every prompt."
TAG_HINT = "Frequent training tags:"


@dataclass(frozen=True)
class Card:
    """A choice with its place in the catalogue and what is known about its file."""

    choice: Choice
    entry: CatalogueEntry
    facts: Facts
    thumbnail: str = ""


def cards_html(cards: Sequence[Card], missing: Sequence[str] = ()) -> str:
    """All cards in the order of choosing, or what to do first."""
    notes = [note("This file is no longer there; it was left out.", "warning", name) for name in missing]
    if not cards:
        hint = "Choose two or more LoRAs from the list. Each gets a card here."
        return "".join(notes) + f'<div class="lct-empty">{tag("p", hint)}</div>'
    return "".join(notes) + f'<div class="lct-cards">{"".join(map(card_html, cards))}</div>'


def card_html(card: Card) -> str:
    """One card; its fields carry `data-field`, which is all that the page's script needs to know."""
    choice = card.choice
    name = escape(choice.name, quote=True)
    head = (
        f'<div class="lct-card-head">{picture_html(choice.name, card.thumbnail)}'
        f"{tag('span', choice.name, 'lct-name')}"
        f'<button type="button" class="lct-remove" aria-label="Remove" title="Remove">&times;</button></div>'
    )
    weights = (
        _field("Weight", _input(choice, "weight", "number", choice.weight, step="0.05", inputmode="decimal"))
        + _field(
            "Text weight",
            _input(
                choice,
                "te_weight",
                "number",
                choice.te_weight,
                step="0.05",
                inputmode="decimal",
                placeholder="same",
                title="Weight in the text encoder; empty means the same as Weight.",
            ),
        )
        + _field("Kind", _select(choice))
    )
    words = _field("Trigger", _input(choice, "trigger", "text", choice.trigger, placeholder="none")) + _field(
        "Class word",
        _input(choice, "class_word", "text", choice.class_word, placeholder="woman, dog, …",
               title="What the concept is without its LoRA; the merge keeps this word as it is."),
    )  # fmt: skip
    return (
        f'<fieldset class="lct-card" data-name="{name}"><legend class="lct-hidden">{name}</legend>{head}'
        f'<div class="lct-fields lct-three">{weights}</div><div class="lct-fields lct-two">{words}</div>'
        f"{_warning(choice)}{_tags(card.facts)}{_prompts(choice)}</fieldset>"
    )


def _field(label: str, control: str) -> str:
    return f'<label class="lct-field">{tag("span", label)}{control}</label>'


def _input(choice: Choice, field: str, kind: str, value: str, **attributes: str) -> str:
    more = "".join(f' {key}="{escape(text, quote=True)}"' for key, text in attributes.items())
    return (
        f'<input type="{kind}" data-field="{field}" value="{escape(value, quote=True)}"{more} autocomplete="off" '
        f'aria-label="{escape(field.replace("_", " ") + " " + choice.name, quote=True)}">'
    )


def _select(choice: Choice) -> str:
    options = "".join(
        f'<option value="{value}"{" selected" if value == choice.kind else ""}>{value.title()}</option>'
        for value in KINDS
    )
    name = escape("kind " + choice.name, quote=True)
    return f'<select data-field="kind" aria-label="{name}">{options}</select>'


def _warning(choice: Choice) -> str:
    return note(NO_TRIGGER, "warning") if not (choice.trigger.strip() or choice.class_word.strip()) else ""


def _tags(facts: Facts) -> str:
    if not facts.tags:
        return ""
    buttons = "".join(
        f'<button type="button" class="lct-tag" title="Use as trigger">{escape(name)}</button>'
        for name in facts.tags[:6]
    )
    return f'<div class="lct-tags">{tag("span", TAG_HINT, "lct-soft")} {buttons}</div>'


def _prompts(choice: Choice) -> str:
    help_text = "One prompt a line. {c} stands for trigger and class word, {other} for something else."
    lines = escape("\n".join(choice.prompts))
    name = escape("prompts " + choice.name, quote=True)
    return (
        f'<details class="lct-prompts">{tag("summary", "Capture prompts")}{tag("p", help_text, "lct-soft")}'
        f'<textarea data-field="prompts" rows="{min(max(len(choice.prompts), 3), 10)}" aria-label="{name}" '
        f'spellcheck="false">{lines}</textarea></details>'
    )
