"""`<lora:FILE:WEIGHT>` tags in a prompt, by the WebUI's rules, and with paths in place of names."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from lib_loraclr.core.errors import InputError

TAG = re.compile(r"<lora:([^<>]+)>")


@dataclass(frozen=True)
class LoraTag:
    """One tag: the file's path or name, and the weights of UNet and text encoder."""

    file: str
    weight: float = 1.0
    te_weight: float = 1.0


def split_prompt(prompt: str) -> tuple[str, list[LoraTag]]:
    """The prompt without its tags, and the tags in order. Raises InputError for a tag that names no file."""
    tags = [parse_tag(match.group(1)) for match in TAG.finditer(prompt)]
    return re.sub(r"\s+", " ", TAG.sub("", prompt)).strip(), tags


def parse_tag(inner: str) -> LoraTag:
    """What stands between `<lora:` and `>`: `FILE[:TE[:UNET]][:te=…][:unet=…]`; one number is for both.

    Fields are taken from the right while they are weights, so that a path may hold colons.
    """
    fields = inner.split(":")
    positional: list[float] = []
    named: dict[str, float] = {}
    while len(fields) > 1:
        name, equals, value = fields[-1].rpartition("=")
        if equals and name not in ("te", "unet"):
            break
        try:
            number = float(value)
        except ValueError:
            break
        if not math.isfinite(number):
            break
        if equals:
            named.setdefault(name, number)
        else:
            positional.insert(0, number)
        fields.pop()
    file = ":".join(fields).strip()
    if not file or len(positional) > 2:
        raise InputError("bad-tag", f"<lora:{inner}> is not <lora:FILE:WEIGHT>.", key="prompt")
    te_weight = named.get("te", positional[0] if positional else 1.0)
    weight = named.get("unet", positional[1] if len(positional) > 1 else te_weight)
    return LoraTag(file, weight, te_weight)
