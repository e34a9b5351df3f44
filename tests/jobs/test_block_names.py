"""A merge without a model keeps the block names that tell hosts which UNet the files are for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_loras import Recorder

from lib_loraclr.merging.options import LoraChoice, MergeOptions
from lib_loraclr.merging.pipeline import merge

Q = "transformer_blocks_0_attn1_to_q"


def lora(path: Path, module: str, seed: int) -> Path:
    values = torch.Generator().manual_seed(seed)
    tensors = {
        f"lora_unet_{module}.lora_up.weight": torch.randn(32, 2, generator=values),
        f"lora_unet_{module}.lora_down.weight": torch.randn(2, 32, generator=values),
        f"lora_unet_{module}.alpha": torch.tensor(2.0),
    }
    save_file(tensors, path, {"ss_base_model_version": "sd_v1", "ss_v2": "False"})
    return path


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        # block 3 has attention: one residual block a level, whose numbers only the original names keep
        (f"input_blocks_3_1_{Q}", f"input_blocks_3_1_{Q}"),
        (f"input_blocks_4_1_{Q}", f"down_blocks_1_attentions_0_{Q}"),
        (f"down_blocks_1_attentions_0_{Q}", f"down_blocks_1_attentions_0_{Q}"),
    ],
)
def test_names_of_an_unusual_unet_stay(tmp_path: Path, module: str, expected: str) -> None:
    files = [lora(tmp_path / f"{seed}.safetensors", module, seed) for seed in (1, 2)]
    out = tmp_path / "merged.safetensors"
    options = MergeOptions(tuple(map(LoraChoice, files)), out, method="sum", preset="instant", device="cpu")
    merge(options, open_host=lambda *_: pytest.fail("no model is needed"), progress=Recorder())
    assert {key.partition(".")[0] for key in load_file(out)} == {f"lora_unet_{expected}"}
