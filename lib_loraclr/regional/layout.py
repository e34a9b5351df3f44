"""A user's layout as data: read, checked, imported. One place for the panel, the HTTP API and the hosts' scripts."""

from __future__ import annotations

from typing import Any

from lib_loraclr.core.errors import InputError
from lib_loraclr.regional import RegionalSpec, parse_spec, spec_as_json, validate_spec
from lib_loraclr.regional.importers import import_forge_couple, import_regional_prompter, import_text


def read_regions(raw: Any) -> tuple[RegionalSpec, list[InputError]]:
    """The spec of a text, an object or None, PNG masks included, and every problem; never raises."""
    if not isinstance(raw, str | dict | None):
        return RegionalSpec(), [InputError("bad-regions", "The regions must be a JSON object or its text.")]
    return validate_spec(raw)


def check_regions(raw: Any) -> dict[str, Any]:
    """{"spec": what can be used of it, "problems": [{code, message, key, file}]}."""
    spec, problems = read_regions(raw)
    return {"spec": spec_as_json(spec), "problems": [problem.as_dict() for problem in problems]}


def import_regions(raw: Any, size: tuple[int, int] = (512, 512)) -> dict[str, Any]:
    """{"spec", "notes", "prompt", "negative"} of a layout in another program's notation, or of a spec's JSON.

    `prompt` is None where the text says nothing about the picture's own. `size` (width, height) is what Mix-of-Show's
    pixel positions refer to. Raises InputError.
    """
    if not isinstance(raw, str) or not raw.strip():
        raise InputError("bad-import", "Paste a prompt or a layout first.", key="text")
    if raw.lstrip().startswith("{"):
        spec = parse_spec(raw)
        return {"spec": spec_as_json(spec), "notes": [], "prompt": None, "negative": None}
    found = import_text(raw, size=size)
    return {
        "spec": spec_as_json(found.spec),
        "notes": list(found.notes),
        "prompt": found.prompt,
        "negative": found.negative,
    }


def split_prompt_text(prompt: str, separator: str) -> tuple[str, list[str]]:
    """(the picture's own prompt, the regions' prompts) of a prompt in text mode. Raises InputError "bad-import"."""
    if separator in ("BREAK", "AND"):
        found = import_regional_prompter(prompt)
    elif separator == "line":
        found = import_forge_couple(prompt)
    else:
        found = import_text(prompt)
    return found.prompt, [region.prompt for region in found.spec.regions]
