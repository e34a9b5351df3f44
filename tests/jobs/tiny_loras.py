"""Kohya LoRA files for the tiny SD1 checkpoint, made by hand, and a progress that records and cancels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lib_loraclr.core.errors import Cancelled
from lib_loraclr.merging.options import LoraChoice, MergeOptions
from lib_loraclr.model import Phase

UNET = "lora_unet_down_blocks_{}_attentions_0_transformer_blocks_0_{}"
# key -> (out, in) of the tiny checkpoint: UNet widths 32 and 64, text width 32
LAYERS: dict[str, tuple[int, int]] = {
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj": (32, 32),
    "lora_te_text_model_encoder_layers_1_mlp_fc1": (128, 32),
    UNET.format(0, "attn1_to_q"): (32, 32),
    UNET.format(0, "attn2_to_k"): (32, 32),
    UNET.format(0, "attn2_to_v"): (32, 32),
    UNET.format(1, "attn1_to_v"): (64, 64),
    UNET.format(1, "attn2_to_k"): (64, 32),
    UNET.format(1, "ff_net_2"): (64, 256),
}
QUICK = {
    "sampling_steps": 2,
    "prompts": 1,
    "neutral_prompts": 1,
    "held_out_prompts": 1,
    "rounds": 1,
    "distill_steps_per_lora": 1,
}


def lora_tensors(seed: int, rank: int = 2, alpha: float = 1.0) -> dict[str, Tensor]:
    """Random factors for every layer of `LAYERS`, strong enough to change pictures."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for key, (out, features) in LAYERS.items():
        tensors[f"{key}.lora_up.weight"] = torch.randn(out, rank, generator=generator) * 0.3
        tensors[f"{key}.lora_down.weight"] = torch.randn(rank, features, generator=generator) * 0.3
        tensors[f"{key}.alpha"] = torch.tensor(alpha)
    return tensors


def true_delta(tensors: dict[str, Tensor], key: str) -> Tensor:
    """alpha / rank * up @ down, written out."""
    up, down, alpha = (tensors[f"{key}.{part}"].double() for part in ("lora_up.weight", "lora_down.weight", "alpha"))
    return float(alpha) / down.shape[0] * (up @ down)


def write_lora_file(path: Path, tensors: dict[str, Tensor], **metadata: str) -> Path:
    """A kohya file with the metadata of an SD1 LoRA."""
    save_file(tensors, path, {"ss_base_model_version": "sd_v1", "ss_v2": "False", **metadata})
    return path


@dataclass
class Recorder:
    """Progress that remembers phases and steps, and cancels at step `at` of phases named `cancel_in`."""

    cancel_in: str = ""
    at: int = 1
    phases: list[tuple[str, int]] = field(default_factory=list)
    reached: list[str] = field(default_factory=list)

    def phase(self, phase: Phase, steps: int, detail: str = "") -> None:
        self.phases.append((phase.words(detail), steps))

    def step(self, text: str = "") -> None:
        name = self.phases[-1][0]
        self.reached.append(name)
        if name == self.cancel_in and self.reached.count(name) == self.at:
            raise Cancelled

    def message(self, text: str) -> None:
        """Nothing."""

    @property
    def sampled(self) -> int:
        """Steps of model runs that were announced."""
        return sum(steps for name, steps in self.phases if name == "Watching the model")


@pytest.fixture(scope="session")
def loras(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three LoRA files: ranks 2, 3, 2; the last with another alpha and a trigger in its metadata."""
    folder = tmp_path_factory.mktemp("loras")
    tags = '{"10_vex woman": {"vex woman": 10}}'
    return [
        write_lora_file(folder / "zor.safetensors", lora_tensors(1)),
        write_lora_file(folder / "kib.safetensors", lora_tensors(2, rank=3)),
        write_lora_file(folder / "vex.safetensors", lora_tensors(3, alpha=4.0), ss_tag_frequency=tags),
    ]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of statistics for all tests."""
    return tmp_path_factory.mktemp("statistics")


def options_for(
    loras: list[Path], out: Path, checkpoint: Path | None, cache: Path, *, quick: bool = True, **changes: object
) -> MergeOptions:
    """A quick merge of all files with their stems as triggers."""
    given: dict[str, object] = {
        "lora": tuple(LoraChoice(path, trigger=f"{path.stem} man") for path in loras),
        "out": out,
        "checkpoint": checkpoint,
        "cache": cache,
        "device": "cpu",
        "method": "contrastive",
        "preset": "layerwise",
        "option": QUICK if quick else {},
    }
    return MergeOptions(**{**given, **changes})  # pyright: ignore[reportArgumentType]
