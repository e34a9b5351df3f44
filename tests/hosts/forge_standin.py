"""Stand-ins for Forge's engine, patchers and memory manager around the standalone host's layers.

They do what Forge does (backend/ of its repository): LoRAs are merged into the weights with a backup by key and taken
out when a patcher without them is loaded; latents are not scaled to variance 1; the model predicts the clean ones.
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import torch
from standin import Renamed, named
from torch import nn

from lib_loraclr.hosts.standalone import StandaloneHost


class Loader:
    """`LoraLoader`: the base weights while LoRAs are in."""

    def __init__(self) -> None:
        self.backup: dict[str, torch.Tensor] = {}
        self.loaded_hash = ""


class Patcher:
    """`ModelPatcher` around one torch model; clones share the model and the loader."""

    def __init__(self, model: nn.Module, loader: Loader, strength: float = 0.0) -> None:
        self.model, self.lora_loader, self.strength = model, loader, strength
        self.load_device = torch.device("cpu")

    def with_lora(self, strength: float) -> Patcher:
        return Patcher(self.model, self.lora_loader, strength)

    def load(self) -> None:
        """Restore what another patcher merged, then merge what this one carries."""
        with torch.no_grad():
            named_weights = dict(self.model.named_parameters())
            for key, weight in self.lora_loader.backup.items():
                named_weights[key].copy_(weight)
            self.lora_loader.backup.clear()
            if self.strength:
                for key, weight in named_weights.items():
                    if key.endswith("to_q.weight"):
                        self.lora_loader.backup[key] = weight.detach().clone()
                        weight += self.strength


class Objects:
    """`ForgeObjects`."""

    def __init__(self, unet: Patcher, clip: Any) -> None:
        self.unet, self.clip = unet, clip

    def shallow_copy(self) -> Objects:
        return Objects(self.unet, self.clip)


class KModel(nn.Module):
    """`KModel`: noisy latents that are not scaled down in, clean latents out."""

    storage_dtype = computation_dtype = torch.float32

    def __init__(self, host: StandaloneHost) -> None:
        super().__init__()
        self._host = [host]
        self.diffusion_model = Renamed(host.unet)
        signal = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
        self.predictor = named(sigmas=((1 - signal) / signal).sqrt().float(), prediction_type="epsilon")
        self.rows: list[int] = []

    def apply_model(self, x: torch.Tensor, t: torch.Tensor, c_crossattn: torch.Tensor) -> torch.Tensor:
        self.rows.append(len(x))
        step = (self.predictor.sigmas - t[:, None]).abs().argmin(1)
        sigma = t.view(-1, 1, 1, 1)
        return x - sigma * self._host[0].unet(x / (1 + sigma**2).sqrt(), step, c_crossattn).sample


class Engine:
    """`ForgeDiffusionEngine` of an SD1 checkpoint."""

    is_sd1, is_sd2, is_sdxl, is_inpaint = True, False, False, False

    def __init__(self, host: StandaloneHost, path: Path) -> None:
        self._host = host
        stage = nn.Module()
        stage.clip_l = nn.Module()
        stage.clip_l.transformer = host.text.encoders[0]
        clip = named(cond_stage_model=stage, patcher=Patcher(stage, Loader()))
        self.forge_objects_original = Objects(Patcher(KModel(host), Loader()), clip)
        self.forge_objects = self.forge_objects_original.shallow_copy()
        self.sd_checkpoint_info = named(filename=str(path), sha256=None, name_for_extra=path.stem)
        self.text_processing_engine = named(clip_skip=2, id_end=49407, process_texts=self._process_texts)
        self.tiling_enabled, self.current_lora_hash = True, "tags of the last picture"

    def set_clip_skip(self, skip: int) -> None:
        self.text_processing_engine.clip_skip = skip

    @torch.inference_mode()
    def get_learned_conditioning(self, prompts: list[str]) -> torch.Tensor:
        return self._host.text.encode(list(prompts), torch.device("cpu")).context

    def _process_texts(self, texts: list[str]) -> tuple[list[Any], int]:
        ids, _ = self._host.text.tokens(texts)
        return [[named(tokens=chunk.tolist()) for chunk in row.split(77)] for row in ids], 75


def build(engine: Engine) -> dict[str, types.ModuleType]:
    """Module name -> stand-in of what Forge has beside `modules`."""
    log: list[str] = []

    def prepare(unet: Patcher, x: torch.Tensor) -> None:
        log.append("prepare")
        unet.load()

    def circular(model: Engine, enable: bool) -> None:
        model.tiling_enabled = enable

    members: dict[str, dict[str, Any]] = {
        "backend": {}, "backend.sampling": {}, "modules_forge": {},
        "backend.memory_management": {
            "soft_empty_cache": lambda: log.append("empty"), "get_torch_device": lambda: torch.device("cpu"),
            "load_model_gpu": lambda patcher: log.append("texts"),
        },
        "backend.sampling.sampling_function": {
            "sampling_prepare": prepare, "sampling_cleanup": lambda unet: log.append("cleanup"), "log": log,
        },
        "modules_forge.utils": {"apply_circular_forge": circular},
    }  # fmt: skip
    found: dict[str, types.ModuleType] = {}
    for name, values in members.items():
        module = types.ModuleType(name)
        module.__dict__.update(values)
        found[name] = module
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(found[parent], last, module)
    return found
