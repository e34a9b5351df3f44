"""Metadata of a merged file: what hosts and trainers read, and one key with the whole recipe.

sd-scripts `ss_*` keys, ModelSpec 1.0.1 keys, `loraclr_recipe` (JSON). Nothing in it depends on the time or the machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lib_loraclr.formats.lora_file import LoraFile
from lib_loraclr.formats.triggers import tag_folders
from lib_loraclr.version import __version__

RECIPE_KEY = "loraclr_recipe"
_BASE_VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
_ARCHITECTURES = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2-512",
    "sdxl": "stable-diffusion-xl-v1-base",
}
_ARCHITECTURE_V = "stable-diffusion-v2-768-v"
_IMPLEMENTATIONS = {"sdxl": "https://github.com/Stability-AI/generative-models"}
_DIFFUSERS = "https://github.com/huggingface/diffusers"
_RESOLUTIONS = {"sd1": "512x512", "sd2": "768x768", "sdxl": "1024x1024"}
_MAX_TAGS = 50


def merged_metadata(stem: str, family: str, inputs: Sequence[LoraFile], recipe: Mapping[str, Any]) -> dict[str, str]:
    """Metadata for a merge of `inputs` written as `<stem>.safetensors`; every value is text.

    `recipe` is stored as it is; its `inputs`, where given, is one mapping per input (weight, trigger ...) and is
    completed by name, hash, types and trigger. The writer adds sizes and hashes.
    """
    entries = _recipe_inputs(inputs, recipe)
    full = {**recipe, "inputs": entries, "version": __version__}
    triggers = [str(entry["trigger"]) for entry in entries if entry.get("trigger")]
    version = _base_version(family, inputs)
    result = {
        "ss_output_name": stem,
        "ss_network_module": "networks.lora",
        "ss_training_comment": f"merged by sd-webui-loraclr {__version__}",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": _IMPLEMENTATIONS.get(family, _DIFFUSERS),
        "modelspec.title": stem,
        "modelspec.merged_from": ", ".join(file.name for file in inputs),
        RECIPE_KEY: json.dumps(full, ensure_ascii=False, sort_keys=True, separators=(",", ":")),
    }
    if version:
        architecture = _ARCHITECTURE_V if version.endswith("_v") and family == "sd2" else _ARCHITECTURES[family]
        result |= {
            "ss_base_model_version": version,
            "ss_v2": str(family == "sd2"),
            "modelspec.architecture": f"{architecture}/lora",
            "modelspec.resolution": _RESOLUTIONS[family],
        }
    optional = {
        "modelspec.trigger_phrase": ", ".join(triggers),
        "modelspec.license": "; ".join(_distinct(inputs, "modelspec.license")),
        "modelspec.author": "; ".join(_distinct(inputs, "modelspec.author")),
        "ss_tag_frequency": _merged_tags(inputs),
    }
    return result | {key: value for key, value in optional.items() if value}


def recipe_of(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The recipe of a file that was merged here; None for any other."""
    try:
        recipe: Any = json.loads(metadata.get(RECIPE_KEY, ""))
    except ValueError:
        return None
    return recipe if isinstance(recipe, dict) else None


def _recipe_inputs(inputs: Sequence[LoraFile], recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
    given: Any = recipe.get("inputs") or [{} for _ in inputs]
    entries: list[dict[str, Any]] = []
    for file, extra in zip(inputs, given, strict=True):
        known = {"name": file.name, "sha256": file.sha256, "types": list(file.types)}
        entry = {**known, "trigger": ", ".join(file.triggers), **{k: v for k, v in extra.items() if v is not None}}
        entries.append(entry)
    return entries


def _base_version(family: str, inputs: Sequence[LoraFile]) -> str | None:
    """What the inputs say where they agree and it is of the family, else the family's usual word."""
    if family not in _BASE_VERSIONS:
        return None
    usual = _BASE_VERSIONS[family]
    stated = {file.metadata.get("ss_base_model_version", "") for file in inputs} - {""}
    only = next(iter(stated)) if len(stated) == 1 else ""
    return only if only.startswith(usual.split("_base")[0]) else usual


def _distinct(inputs: Sequence[LoraFile], key: str) -> list[str]:
    return list(dict.fromkeys(value for file in inputs if (value := file.metadata.get(key, "").strip())))


def _merged_tags(inputs: Sequence[LoraFile]) -> str:
    """Training tags as dict of dicts (the hosts' LoRA editor wants that form), one folder per input, bounded."""
    folders: dict[str, dict[str, int]] = {}
    for file in inputs:
        total: dict[str, int] = {}
        for tags in tag_folders(file.metadata).values():
            for tag, count in tags.items():
                total[tag] = total.get(tag, 0) + count
        most = sorted(total.items(), key=lambda item: (-item[1], item[0]))[:_MAX_TAGS]
        if most:
            folders[file.name] = dict(most)
    return json.dumps(folders, ensure_ascii=False) if folders else ""
