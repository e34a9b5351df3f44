"""Stand-ins for the modules of A1111 around a model with the original code base's names; `test_host_contract` checks
that they offer nothing that the real ones do not."""

from __future__ import annotations

import contextlib
import threading
import types
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib_loraclr.formats.keys.unet_layout import UNetLayout
from lib_loraclr.hosts.standalone import StandaloneHost


def named(**members: Any) -> types.SimpleNamespace:
    return types.SimpleNamespace(**members)


class Renamed(nn.Module):
    """The standalone UNet's own layers under the original code base's names; nothing is copied."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        layout = UNetLayout.from_diffusers(name for name, _ in unet.named_modules())
        for name, module in unet.named_modules():
            path = layout.to_ldm(name) if not list(module.children()) else None
            if path is None or next(module.parameters(), None) is None:
                continue
            *folders, last = path.split(".")
            place: nn.Module = self
            for folder in folders:
                if folder not in place._modules:
                    place.add_module(folder, nn.Module())
                place = place._modules[folder]
            place.add_module(last, module)


class Model(nn.Module):
    """`shared.sd_model` of an SD1 checkpoint."""

    is_sdxl = is_sd2 = False
    is_sd1 = True
    parameterization, linear_start, linear_end, num_timesteps = "eps", 0.00085, 0.012, 1000
    lowvram = False

    def __init__(self, host: StandaloneHost, path: Path) -> None:
        super().__init__()
        self._host = [host]
        self.model = nn.Module()
        self.model.diffusion_model = Renamed(host.unet)
        self.cond_stage_model = nn.Module()
        self.cond_stage_model.wrapped = nn.Module()
        self.cond_stage_model.wrapped.transformer = host.text.encoders[0]
        self.cond_stage_model.id_end = 49407
        self.cond_stage_model.process_texts = self._process_texts
        self.image_size = host.info.native_size // 8
        self.sd_checkpoint_info = named(filename=str(path), sha256=None, name_for_extra=path.stem)
        self.network_layer_mapping = {
            name.replace(".", "_"): module
            for root in (self.model, self.cond_stage_model.wrapped)
            for name, module in root.named_modules()
        }
        self.rows: list[int] = []

    def apply_model(self, x: torch.Tensor, t: torch.Tensor, cond: dict[str, Any]) -> torch.Tensor:
        self.rows.append(len(x))
        return self._host[0].unet(x, t, cond["c_crossattn"][0]).sample

    def get_learned_conditioning(self, prompts: list[str]) -> torch.Tensor:
        return self._host[0].text.encode(list(prompts), torch.device("cpu")).context

    def ema_scope(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def _process_texts(self, texts: list[str]) -> tuple[list[Any], int]:
        ids, _ = self._host[0].text.tokens(texts)
        return [[named(tokens=chunk.tolist()) for chunk in row.split(77)] for row in ids], 75


class State:
    """`shared.state`."""

    def __init__(self) -> None:
        self.interrupted = self.skipped = self.stopping_generation = False
        self.job_count = self.job_no = self.sampling_step = self.sampling_steps = 0
        self.textinfo: str | None = None
        self.jobs: list[str | None] = []

    def begin(self, job: str) -> None:
        self.interrupted = self.skipped = self.stopping_generation = False
        self.jobs.append(job)

    def end(self) -> None:
        self.jobs.append(None)


class Prompts(list):
    """`prompt_parser.SdConditioning`."""

    def __init__(self, prompts: list[str], is_negative_prompt: bool = False, width: int = 0, height: int = 0) -> None:
        super().__init__(prompts)


class Networks(types.ModuleType):
    """The Lora extension: adds `strength` to the weights of the layers it is asked for, lazily, with a backup."""

    def __init__(self, folder: Path) -> None:
        super().__init__("networks")
        self.folder = folder
        self.available_networks: dict[str, Any] = {}
        self.loaded_networks: list[Any] = []
        self.networks_in_memory: dict[str, Any] = {}

    def list_available_networks(self) -> None:
        found = sorted(self.folder.glob("*.safetensors"))
        self.available_networks = {path.stem: named(filename=str(path), name=path.stem) for path in found}

    def network_apply_weights(self, layer: Any) -> None:
        wanted = tuple((network.name, network.strength) for network in self.loaded_networks)
        if getattr(layer, "network_current_names", ()) == wanted:
            return
        if getattr(layer, "network_weights_backup", None) is None:
            layer.network_weights_backup = layer.weight.detach().clone()
        layer.weight.copy_(layer.network_weights_backup + sum(strength for _, strength in wanted))
        layer.network_current_names = wanted


def build(model: Model, folder: Path) -> dict[str, types.ModuleType]:
    """Module name -> stand-in, for sys.modules; `networks` among them."""
    state, calls = State(), [0]
    opts = named(CLIP_stop_at_last_layers=1, sdxl_clip_l_skip=False)
    cmd_opts = named(lora_dir=str(folder), api=True, api_auth=None, nowebui=False, hide_ui_dir_config=False)
    shown: list[str] = []

    def zeros(_: Any, x: torch.Tensor, width: int, height: int) -> torch.Tensor:
        return x.new_zeros(len(x), 5, 1, 1)

    def decoded(_: Any, latents: torch.Tensor, target_device: Any, check_for_nans: bool) -> list[torch.Tensor]:
        pictures = model._host[0].decode(latents)
        return list(pictures.permute(0, 3, 1, 2) / 127.5 - 1)

    def collect() -> None:
        calls[0] += 1

    hijack = named(circular_enabled=True)
    hijack.apply_circular = lambda enable: setattr(hijack, "circular_enabled", enable)
    progress: dict[str, Any] = {"pending_tasks": {}, "current": None}
    members: dict[str, dict[str, Any]] = {
        "shared": {
            "state": state, "opts": opts, "cmd_opts": cmd_opts, "sd_model": model, "device": torch.device("cpu"),
            "loaded_hypernetworks": ["a hypernetwork"],
        },
        "call_queue": {"queue_lock": threading.Lock()},
        "progress": {
            "pending_tasks": progress["pending_tasks"],
            "add_task_to_queue": lambda task: progress["pending_tasks"].update({task: 0}),
            "start_task": lambda task: progress["pending_tasks"].pop(task, None),
            "finish_task": lambda task: None,
        },
        "devices": {
            "cpu": torch.device("cpu"), "device": torch.device("cpu"), "dtype_unet": torch.float32, "fp8": False,
            "autocast": contextlib.nullcontext, "without_autocast": contextlib.nullcontext, "unet_needs_upcast": False,
            "torch_gc": collect,
        },
        "sd_models": {
            "model_data": named(sd_model=model), "send_model_to_cpu": None, "send_model_to_device": None,
        },
        "sd_unet": {"current_unet": None},
        "sd_hijack": {"model_hijack": hijack},
        "prompt_parser": {"SdConditioning": Prompts},
        "sd_samplers": {}, "extra_networks": {},
        "processing": {
            "decode_latent_batch": decoded, "txt2img_image_conditioning": zeros,
            "StableDiffusionProcessing": type("P", (), {"cached_c": ["old", 1], "cached_uc": ["old", 1]}),
            "StableDiffusionProcessingTxt2Img": type("T", (), {"cached_hr_c": ["old", 1, 2]}),
        },
        "launch_utils": {"git_tag": lambda: "v0"},
        "util": {"open_folder": shown.append, "shown": shown},
    }  # fmt: skip
    found: dict[str, types.ModuleType] = {"modules": types.ModuleType("modules"), "networks": Networks(folder)}
    for name, values in members.items():
        module = types.ModuleType(f"modules.{name}")
        module.__dict__.update(values)
        found[f"modules.{name}"] = module
        setattr(found["modules"], name, module)
    return found
