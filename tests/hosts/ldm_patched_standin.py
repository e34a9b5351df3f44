"""Stand-ins for a model of the `ldm_patched` family, its patchers and its memory manager, around the standalone host.

They do what reForge and Classic do (modules_forge/ and ldm_patched/ of their repositories): the model is A1111's with
`forge_objects`; a patcher merges its LoRAs when it is loaded and keeps what was there itself, a clone for its own.
"""

from __future__ import annotations

import types
from collections import namedtuple
from pathlib import Path
from typing import Any

import torch
from standin import Model, Renamed, named
from torch import nn

from lib_loraclr.hosts.standalone import StandaloneHost

Kept = namedtuple("Kept", ["weight", "inplace_update"])  # reForge keeps these, Classic bare tensors


class Manager(types.ModuleType):
    """`ldm_patched.modules.model_management`."""

    def __init__(self) -> None:
        super().__init__("ldm_patched.modules.model_management")
        self.current_loaded_models: list[Any] = []
        self.log: list[str] = []

    def load(self, patcher: Patcher) -> None:
        """Unload what is around the same model, then merge what this patcher carries."""
        for loaded in [one for one in self.current_loaded_models if one.model.model is patcher.model]:
            loaded.model.unpatch()
            self.current_loaded_models.remove(loaded)
        patcher.patch()
        self.current_loaded_models.append(named(model=patcher))

    def load_model_gpu(self, patcher: Patcher) -> None:
        self.log.append("texts")

    def soft_empty_cache(self) -> None:
        self.log.append("empty")


class Patcher:
    """`ModelPatcher`; clones share the model, not the backup."""

    def __init__(self, model: nn.Module, strength: float = 0.0, *, wrapped: bool = False) -> None:
        self.model, self.strength, self.wrapped = model, strength, wrapped
        self.backup: dict[str, Any] = {}
        self.load_device = torch.device("cpu")

    def with_lora(self, strength: float, *, wrapped: bool = False) -> Patcher:
        return Patcher(self.model, strength, wrapped=wrapped)

    def patch(self) -> None:
        with torch.no_grad():
            for key, weight in self.model.named_parameters():
                if self.strength and key.endswith("to_q.weight"):
                    kept = weight.detach().clone()
                    self.backup[key] = Kept(kept, False) if self.wrapped else kept
                    weight += self.strength

    def unpatch(self) -> None:
        weights = dict(self.model.named_parameters())
        with torch.no_grad():
            for key, kept in self.backup.items():
                weights[key].copy_(getattr(kept, "weight", kept))
        self.backup.clear()


class Objects:
    """`ForgeSD`, `ForgeObjects`."""

    def __init__(self, unet: Patcher, clip: Any) -> None:
        self.unet, self.clip = unet, clip

    def shallow_copy(self) -> Objects:
        return Objects(self.unet, self.clip)


class BaseModel(nn.Module):
    """`BaseModel`: noisy latents that are not scaled down in, clean latents out."""

    manual_cast_dtype = None

    def __init__(self, host: StandaloneHost) -> None:
        super().__init__()
        self._host = [host]
        self.diffusion_model = Renamed(host.unet)
        self.diffusion_model.in_channels = 4
        signal = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
        self.model_sampling = named(sigmas=((1 - signal) / signal).sqrt().float())

    def get_dtype(self) -> torch.dtype:
        return torch.float32

    def apply_model(self, x: torch.Tensor, t: torch.Tensor, c_crossattn: torch.Tensor) -> torch.Tensor:
        step = (self.model_sampling.sigmas - t[:, None]).abs().argmin(1)
        sigma = t.view(-1, 1, 1, 1)
        return x - sigma * self._host[0].unet(x / (1 + sigma**2).sqrt(), step, c_crossattn).sample


class ShellModel(Model):
    """`sd_model`: A1111's, with the real models in `forge_objects`."""

    def __init__(self, host: StandaloneHost, path: Path, encoder: str = "clip_l") -> None:
        super().__init__(host, path)
        stage = nn.Module()
        stage.add_module(encoder, nn.Module())
        stage._modules[encoder].transformer = host.text.encoders[0]
        clip = named(cond_stage_model=stage, patcher=Patcher(stage))
        self.forge_objects_original = Objects(Patcher(BaseModel(host)), clip)
        self.forge_objects = self.forge_objects_original.shallow_copy()
        self.tiling_enabled, self.current_lora_hash = True, "tags of the last picture"


def build(manager: Manager) -> dict[str, types.ModuleType]:
    """Module name -> stand-in of what these WebUIs have beside `modules`."""

    def prepare(unet: Patcher, x: torch.Tensor) -> None:
        manager.log.append("prepare")
        manager.load(unet)

    def circular(model: ShellModel, enable: bool) -> None:
        model.tiling_enabled = enable

    members: dict[str, dict[str, Any]] = {
        "ldm_patched": {}, "ldm_patched.modules": {"model_management": manager}, "modules_forge": {},
        "modules_forge.forge_sampler": {
            "sampling_prepare": prepare, "sampling_cleanup": lambda unet: manager.log.append("cleanup"),
        },
        "modules_forge.forge_util": {"apply_circular_forge": circular},
    }  # fmt: skip
    found: dict[str, types.ModuleType] = {manager.__name__: manager}
    for name, values in members.items():
        found[name] = types.ModuleType(name)
        found[name].__dict__.update(values)
    return found
