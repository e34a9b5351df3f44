"""The chosen LoRAs as the page holds them (JSON), as typed values, and as a job's inputs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib_loraclr.app.application import CatalogueEntry
from lib_loraclr.capture.concept import KINDS, class_word_in, guess_kind
from lib_loraclr.capture.prompts import phrase, templates_for
from lib_loraclr.core.errors import InputError
from lib_loraclr.frontends.tab.facts import Facts
from lib_loraclr.merging.options import LoraChoice

MOST = 1000  # LoRAs in one merge; a request with more is not the page's
OBJECT_WORDS = frozenset((
    "robot", "toy", "doll", "car", "vehicle", "house", "building", "chair", "lamp", "bag", "backpack", "shoe", "hat",
    "dress", "shirt", "sword", "vase", "cup", "bottle", "plant", "flower", "clothes", "armor", "weapon", "mug",
))  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """One card. `weight` and `te_weight` are texts as typed; an empty `te_weight` means: the same as the UNet."""

    name: str
    weight: str = "1"
    te_weight: str = ""
    kind: str = "character"
    trigger: str = ""
    class_word: str = ""
    prompts: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """What the page keeps."""
        return {
            "name": self.name,
            "weight": self.weight,
            "te_weight": self.te_weight,
            "kind": self.kind,
            "trigger": self.trigger,
            "class_word": self.class_word,
            "prompts": "\n".join(self.prompts),
        }

    def as_recipe(self, entry: CatalogueEntry) -> dict[str, Any]:
        """An entry of a recipe's `lora`. Raises InputError for a weight that is no number."""
        recipe: dict[str, Any] = {
            "file": str(entry.path),
            "weight": _number(self.weight, self.name),
            "trigger": self.trigger.strip(),
            "class_word": self.class_word.strip(),
            "kind": self.kind,
        }
        if self.te_weight.strip():
            recipe["te_weight"] = _number(self.te_weight, self.name)
        usual = usual_prompts(self.kind, self.trigger, self.class_word)
        return recipe | ({"prompts": list(self.prompts)} if self.prompts and self.prompts != usual else {})


def parse_choices(raw: Any) -> list[dict[str, str]]:
    """The page's choices as a list of texts by name; what is not of that form raises InputError "bad-selection"."""
    try:
        items = [{str(k): str(v) for k, v in item.items() if v is not None} for item in raw]
        names = [item["name"] for item in items]
    except (TypeError, AttributeError, KeyError) as error:
        raise InputError("bad-selection", "The list of chosen LoRAs is damaged; choose again.", key="lora") from error
    if len(items) > MOST:
        raise InputError("bad-selection", f"At most {MOST} LoRAs can be merged at once.", key="lora")
    return [item for number, item in enumerate(items) if item["name"] not in names[:number]]


def complete(item: Mapping[str, str], entry: CatalogueEntry, facts: Facts) -> Choice:
    """A card from what the page knows; what it does not know yet comes from the file and its user's notes."""
    known = entry.user_metadata
    noted = known.get("activation text")
    trigger = item.get("trigger")
    if trigger is None:
        trigger = noted.strip() if isinstance(noted, str) and noted.strip() else next(iter(facts.triggers), "")
    kind = item.get("kind", "")
    kind = kind if kind in KINDS else suggested_kind(entry.name, trigger)
    class_word = item.get("class_word", class_word_in(trigger))
    lines = (line.strip() for line in item.get("prompts", "").splitlines())
    prompts = tuple(line for line in lines if line)
    if is_usual(prompts):
        prompts = usual_prompts(kind, trigger, class_word)
    weight = item.get("weight", f"{preferred_weight(known):g}")
    return Choice(entry.name, weight, item.get("te_weight", ""), kind, trigger, class_word, prompts)


def suggested_kind(name: str, trigger: str) -> str:
    """The kind that a new card shows, from the words of its name and trigger; the user sees it and may change it."""
    words = set(re.split(r"[^a-z]+", f"{name} {trigger}".lower()))
    if "style" in words:
        return "style"
    return "object" if words & OBJECT_WORDS else "character"


def usual_prompts(kind: str, trigger: str, class_word: str) -> tuple[str, ...]:
    """The prompts that a card shows before anybody edits them."""
    return templates_for(kind, phrase(trigger, class_word)).sample


def is_usual(prompts: tuple[str, ...]) -> bool:
    """Whether the prompts are those of some kind, so that another kind may replace them."""
    return not prompts or prompts in {usual_prompts(kind, word, "") for kind in KINDS for word in ("", "x")}


def of_job(lora: LoraChoice, name: str) -> Choice:
    """The card of a LoRA that was merged from elsewhere."""
    te_weight = "" if lora.te_weight is None else f"{lora.te_weight:g}"
    trigger, class_word = lora.trigger or "", lora.class_word or ""
    kind = lora.kind or guess_kind(trigger, class_word)
    return Choice(name, f"{lora.weight:g}", te_weight, kind, trigger, class_word, lora.prompts)


def preferred_weight(user_metadata: Mapping[str, Any]) -> float:
    """The sidecar's preferred weight where it is a number that does something, else 1."""
    value = user_metadata.get("preferred weight")
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value != 0
    return float(value) if usable and isinstance(value, int | float) else 1.0


def from_recipe(
    recipe: Mapping[str, Any], entries: Mapping[str, CatalogueEntry]
) -> tuple[list[dict[str, str]], list[str]]:
    """(cards for the page, names of files that the catalogue lacks) of a merged file's recipe.

    Files are found by their stem, as the hosts find them.
    """
    cards: list[dict[str, str]] = []
    missing: list[str] = []
    for stored in recipe.get("inputs", ()):
        if not isinstance(stored, Mapping):
            continue
        file = str(stored.get("file", stored.get("name", "")))
        stem = file.removesuffix(".safetensors")
        if stem not in entries:
            missing.append(file)
            continue
        weight, te_weight = stored.get("weight", 1.0), stored.get("te_weight")
        item = {"name": stem, "weight": f"{weight:g}" if isinstance(weight, int | float) else "1"}
        if isinstance(te_weight, int | float) and te_weight != weight:
            item["te_weight"] = f"{te_weight:g}"
        item |= {name: str(stored[name]) for name in ("trigger", "class_word") if name in stored}
        if isinstance(stored.get("prompts"), list):
            item["prompts"] = "\n".join(map(str, stored["prompts"]))
        kind = stored.get("kind") or _kind_in_0_1(stored)
        if kind in KINDS:
            item["kind"] = kind
        cards.append(item)
    return cards, missing


def _kind_in_0_1(stored: Mapping[str, Any]) -> str | None:
    """What version 0.1.0, whose recipes name no kind, merged this input as; None where nothing tells."""
    if isinstance(stored.get("prompts"), list):
        prompts = tuple(stored["prompts"])
        return next((kind for kind in KINDS if usual_prompts(kind, "x", "") == prompts), "character")
    if "trigger" in stored:
        return guess_kind(str(stored["trigger"]), str(stored.get("class_word", "")))
    return None


def _number(text: str, name: str) -> float:
    try:
        value = float(text.strip().replace(",", "."))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError("bad-option", f"The weight '{text}' is not a number.", file=name, key="weight")
    return value
