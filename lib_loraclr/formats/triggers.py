"""Which words wake a LoRA up: what its user, its author or its training captions say."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib_loraclr.formats.sidecar import read_sidecar

# fmt: off
_COMMON_TAGS = frozenset((
    "1girl", "1boy", "2girls", "2boys", "solo", "looking at viewer", "simple background", "white background", "smile",
    "long hair", "short hair", "breasts", "blush", "open mouth", "standing", "sitting", "upper body", "full body",
    "realistic", "photo", "photorealistic", "highres", "masterpiece", "best quality", "no humans", "",
))
# fmt: on


def triggers_of(path: Path, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The sidecar's activation text, else `modelspec.trigger_phrase`, else what the training captions suggest."""
    for text in (read_sidecar(path).get("activation text"), metadata.get("modelspec.trigger_phrase")):
        if isinstance(text, str) and text.strip():
            return (text.strip(),)
    guess = _from_captions(metadata)
    return (guess,) if guess else ()


def _from_captions(metadata: Mapping[str, str]) -> str:
    """A folder's name (kohya: `10_bob man`) that most captions contain, else the most frequent tag that says much."""
    folders = tag_folders(metadata)
    counts = tag_counts(metadata)
    most = [tag for tag, count in counts.items() if count >= 0.8 * max(counts.values())]
    for folder in sorted(folders):
        name = re.sub(r"^\d+_", "", folder).strip()
        words = re.compile(rf"\b{re.escape(name)}\b", re.IGNORECASE)
        if re.search(r"[^\W\d]", name) and any(words.search(tag) for tag in most):
            return name
    return next((tag for tag in frequent_tags(metadata, 20) if tag.lower() not in _COMMON_TAGS), "")


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
