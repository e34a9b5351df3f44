"""A folder of LoRAs as a user has it: good ones, one in a folder below, one for another base, one cut short."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))

from ui_parts import FakeApplication, write_lora


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """anna, ben, below/ink, xl (SDXL), cut (truncated); anna has a picture and ben notes of its user."""
    loras = tmp_path / "loras"
    write_lora(loras / "anna.safetensors", 1, 4, ss_tag_frequency=json.dumps({"10_anna woman": {"anna woman": 9}}))
    write_lora(loras / "ben.safetensors", 2, 2)
    write_lora(loras / "below" / "ink.safetensors", 3, 8)
    wide = {
        KEY + ".lora_up.weight": torch.zeros(640, 4),
        KEY + ".lora_down.weight": torch.zeros(4, 2048),
    }
    save_file(wide, loras / "xl.safetensors", {"ss_base_model_version": "sdxl_base_v1-0"})
    (loras / "cut.safetensors").write_bytes((loras / "anna.safetensors").read_bytes()[:2000])
    Image.new("RGB", (300, 200), (200, 10, 10)).save(loras / "anna.png")
    notes = {"activation text": "ben cup", "preferred weight": 0.8}
    (loras / "ben.json").write_text(json.dumps(notes), encoding="utf-8")
    return loras


KEY = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.fixture
def application(folder: Path, tmp_path: Path) -> FakeApplication:
    return FakeApplication(folder, cache=tmp_path / "cache")
