"""A toy testbed: the tiny checkpoint, random LoRAs of all kinds, an embedder of random weights, drawn references."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "jobs"))

from tiny_loras import lora_tensors, write_lora_file

from benchmarks.testbed import Testbed, open_testbed
from miniature import world as drawing
from miniature.measure import Embedder

CONCEPTS = (
    ("zor", "character", "man"), ("kib", "character", "woman"), ("vex", "character", "elf"), ("pim", "animal", "cat"),
    ("dob", "object", "car"), ("lum", "object", "vase"), ("noir", "style", "style"),
)  # fmt: skip


@pytest.fixture(scope="session")
def toy_folder(tiny_sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like miniature/, with the tiny checkpoint."""
    folder = tmp_path_factory.mktemp("toy")
    generator = torch.Generator().manual_seed(5)
    state = {k: torch.randn(v.shape, generator=generator) * 0.3 for k, v in Embedder().state_dict().items()}
    save_file({k: v.half() for k, v in state.items()}, folder / "embedder.safetensors")
    entries = []
    for number, (name, kind, word) in enumerate(CONCEPTS):
        write_lora_file(folder / f"{name}.safetensors", lora_tensors(number))
        r = random.Random(name)
        person = drawing.random_identity(r, word if kind != "style" else "man")
        files = [f"{name}-{k}.png" for k in range(2)]
        for file in files:
            drawing.render(person, drawing.random_scene(r)).save(folder / file)
        prompts = [f"a photo of {name} {word} in a forest", f"a photo of {name} {word} at the beach"]
        entries.append({"name": name, "kind": kind, "trigger": name, "class_word": word, "prompts": prompts,
                        "file": f"{name}.safetensors", "references": files})  # fmt: skip
    info = {
        "checkpoint": str(tiny_sd1), "embedder": "embedder.safetensors", "concepts": entries,
        "neutral_prompts": ["a photo of a man", "a forest"],
        "generation": {"width": 64, "height": 64, "steps": 2, "cfg_scale": 2.0, "negative_prompt": ""},
    }  # fmt: skip
    (folder / "concepts.json").write_text(json.dumps(info))
    return folder


@pytest.fixture(scope="session")
def toy(toy_folder: Path) -> Testbed:
    """The toy testbed, loaded once."""
    return open_testbed(toy_folder, held_out=4)
