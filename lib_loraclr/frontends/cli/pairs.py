"""`--lora A --trigger a --lora B --trigger b`: which trigger belongs to which LoRA."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from lib_loraclr.core.errors import InputError

Event = tuple[str, str]


class InOrder(argparse.Action):
    """Appends (option, value) to one list, so that the order across options survives."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Record one use of the option."""
        events: list[Event] = [*(getattr(namespace, self.dest, None) or [])]
        events.append((str(option_string).lstrip("-").replace("-", "_"), values))
        setattr(namespace, self.dest, events)


def pair(events: Sequence[Event], belonging: Sequence[str] = ("trigger", "class_word", "kind")) -> list[dict[str, str]]:
    """Events to one mapping per LoRA: {"lora": …, "trigger": …, "class_word": …, "kind": …}.

    As many triggers as LoRAs are paired in order; fewer belong to the LoRA that stands before each of them. Raises
    InputError for a trigger that has no LoRA and for two at one LoRA.
    """
    loras = [{"lora": value} for name, value in events if name == "lora"]
    for name in belonging:
        values = [value for event, value in events if event == name]
        if len(values) == len(loras):
            for entry, value in zip(loras, values, strict=True):
                entry[name] = value
            continue
        flag = "--" + name.replace("_", "-")
        index = -1
        for event, value in events:
            index += event == "lora"
            if event != name:
                continue
            if index < 0:
                raise InputError("bad-arguments", f"{flag} '{value}' stands before the first --lora.", key=name)
            if name in loras[index]:
                raise InputError("bad-arguments", f"Two {flag} belong to --lora '{loras[index]['lora']}'.", key=name)
            loras[index][name] = value
    return loras
