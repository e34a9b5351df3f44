"""An application for the tab's tests: a real folder of small LoRAs, a model by name only, jobs that a test steers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lib_loraclr.app.catalogue import FolderCatalogue
from lib_loraclr.app.cost import Pace
from lib_loraclr.app.jobs import JobRegistry
from lib_loraclr.core.errors import InputError
from lib_loraclr.model import ModelInfo

KEY = "lora_unet_down_blocks_{}_attentions_0_transformer_blocks_0_{}"
LAYERS = {
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (32, 32),
    KEY.format(0, "attn1_to_q"): (32, 32),
    KEY.format(0, "attn2_to_k"): (32, 32),
    KEY.format(1, "ff_net_2"): (64, 256),
}


def write_lora(path: Path, seed: int, rank: int = 2, **metadata: str) -> Path:
    """A kohya file for a narrow SD1 model: fp16, alpha = rank."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for key, (out, features) in LAYERS.items():
        tensors[f"{key}.lora_up.weight"] = torch.randn(out, rank, generator=generator).half()
        tensors[f"{key}.lora_down.weight"] = torch.randn(rank, features, generator=generator).half()
        tensors[f"{key}.alpha"] = torch.tensor(float(rank)).half()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"ss_base_model_version": "sd_v1", "ss_v2": "False", **metadata})
    return path


class FakeApplication:
    """`Application` over a folder; its model has a name but cannot run."""

    def __init__(self, folder: Path, family: str | None = "sd1", cache: Path | None = None) -> None:
        self.name = "test"
        self.catalogue = FolderCatalogue(folder)
        self.family, self.cache = family, cache
        self.jobs, self.pace = JobRegistry(), Pace()
        self.open_folder = None

    def model(self) -> ModelInfo | None:
        if self.family is None:
            return None
        return ModelInfo("tiny", self.family, "", 64, torch.device("cpu"), torch.float32)

    def open_host(self, checkpoint: Path | None, device: str) -> Any:
        raise InputError("no-checkpoint", "The test has no model.", key="checkpoint")

    def cache_folder(self) -> Path | None:
        return self.cache
