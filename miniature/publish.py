"""Writing concepts.json and the reference pictures."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from .backgrounds import PHRASES
from .concepts import Concept, all_concepts, training_set

REFERENCES = 5
GENERATION = {
    "width": 96,
    "height": 96,
    "steps": 20,
    "cfg_scale": 4.0,
    "sampler": "DDIM",
    "clip_skip": 1,
    "negative_prompt": "",
}
NEUTRAL = ("man", "woman", "boy", "girl", "robot", "cat", "dog", "car", "vase")
STYLE_SUBJECTS = ("man", "woman", "boy", "girl", "robot", "cat", "dog", "car", "house", "rabbit")


def concept_prompts(concept: Concept) -> list[str]:
    """One prompt for each background."""
    if concept.kind == "style":
        return [
            f"a photo of a {s} {p} in {concept.subject}" for s, p in zip(STYLE_SUBJECTS, PHRASES.values(), strict=True)
        ]
    return [f"a photo of {concept.subject} {phrase}" for phrase in PHRASES.values()]


def publish(folder: Path) -> None:
    """Draw the references (other scenes than the training pictures) and write concepts.json."""
    (folder / "references").mkdir(parents=True, exist_ok=True)
    entries = []
    for concept in all_concepts():
        names = []
        for k, picture in enumerate(training_set(concept, REFERENCES, seed=2)[0]):
            names.append(f"references/{concept.name}_{k + 1}.png")
            Image.fromarray(picture).save(folder / names[-1], optimize=True)
        entries.append({
            "name": concept.name, "kind": concept.kind, "trigger": concept.trigger, "class_word": concept.class_word,
            "file": f"loras/{concept.name}.safetensors", "references": names, "prompts": concept_prompts(concept),
        })  # fmt: skip
    info = {
        "checkpoint": "miniature.safetensors", "embedder": "embedder.safetensors", "generation": GENERATION,
        "templates": ["a photo of {trigger} {class_word}",
                      *(f"a photo of {{trigger}} {{class_word}} {p}" for p in PHRASES.values())],
        "style_templates": ["a photo of a {subject} in {trigger} {class_word}"],
        "neutral_prompts": ["", *(f"a photo of a {c}" for c in NEUTRAL), "a photo of an elf",
                            "a photo of a man in a forest", "a photo of a woman at the beach", "a photo of a house"],
        "backgrounds": PHRASES, "concepts": entries,
    }  # fmt: skip
    (folder / "concepts.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")
