"""Which words wake a LoRA up: what its user, its author or its training captions say."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib_loraclr.formats.sidecar import read_sidecar


def triggers_of(path: Path, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The sidecar's activation text, else `modelspec.trigger_phrase`, else the most frequent training tag."""
    for text in (read_sidecar(path).get("activation text"), metadata.get("modelspec.trigger_phrase")):
        if isinstance(text, str) and text.strip():
            return (text.strip(),)
    tags = frequent_tags(metadata, 1)
    return tuple(tags)


def frequent_tags(metadata: Mapping[str, str], count: int) -> list[str]:
    """The most frequent training tags (`ss_tag_frequency`: JSON of folder -> tag -> number), ties by name."""
    total = tag_counts(metadata)
    return [tag for tag, _ in sorted(total.items(), key=lambda item: (-item[1], item[0]))[:count]]


def tag_counts(metadata: Mapping[str, str]) -> Counter[str]:
    """Training tags over all folders."""
    total: Counter[str] = Counter()
    for tags in tag_folders(metadata).values():
        total.update(tags)
    return total


def tag_folders(metadata: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """`ss_tag_frequency` as folder -> tag -> number; what is malformed is left out."""
    try:
        folders: Any = json.loads(metadata.get("ss_tag_frequency", "") or "{}")
    except ValueError:
        return {}
    result: dict[str, dict[str, int]] = {}
    for folder, tags in folders.items() if isinstance(folders, dict) else ():
        if isinstance(tags, dict):
            result[str(folder)] = {str(tag).strip(): n for tag, n in tags.items() if isinstance(n, int)}
    return result
