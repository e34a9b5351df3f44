"""The few modules of a WebUI that the regional adapters import, small enough to see through.

`prompt_parser` reads `[a:b:N]` (N: a step, or below 1 a share of the steps) and nothing else; the text encoder gives
every word one row by its name.
The denoisers are written from what A1111 (modules/sd_samplers_cfg_denoiser.py of v1.10.1) and Forge
(backend/sampling/sampling_function.py) hand to the model: the order of rows, nothing more.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections import namedtuple
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

WIDTH = 6
Entry = namedtuple("Entry", ["end_at_step", "cond"])


def word_row(word: str, width: int = WIDTH) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(word.encode()))
    return torch.randn(width, generator=generator)


def encode_words(text: str) -> Tensor:
    """(words + 1, WIDTH); the first row stands for the start of the text."""
    return torch.stack([word_row(word) for word in ["<start>", *text.replace(",", " ").split()]])


class SdConditioning(list):
    def __init__(self, prompts: Any, is_negative_prompt: bool = False, width: Any = None, height: Any = None) -> None:
        super().__init__(prompts)
        self.is_negative_prompt, self.width, self.height = is_negative_prompt, width, height


def learned_conditioning(model: Any, prompts: Any, steps: int, hires_steps: Any = None, old: bool = False) -> Any:
    found = []
    for prompt in prompts:
        match = re.search(r"\[(.*?):(.*?):([\d.]+)\]", prompt)
        model.encoded.append(prompt)
        if match is None:
            found.append([Entry(steps, model.encode(prompt))])
            continue
        first, second = (prompt[: match.start()] + match.group(k) + prompt[match.end() :] for k in (1, 2))
        when = float(match.group(3))
        last = int(when * steps) if when < 1 else int(when)
        found.append([Entry(last, model.encode(first)), Entry(steps, model.encode(second))])
    return found


def parse_prompt(prompt: str) -> tuple[str, dict[str, list[Any]]]:
    found: dict[str, list[Any]] = {}

    def take(match: re.Match[str]) -> str:
        found.setdefault(match.group(1), []).append(SimpleNamespace(items=match.group(2).split(":")))
        return ""

    return re.sub(r"<(\w+):([^>]+)>", take, prompt), found


class Model:
    """`sd_model`: counts what it encodes."""

    def __init__(self, unet: torch.nn.Module) -> None:
        self.model = SimpleNamespace(diffusion_model=unet)
        self.encoded: list[str] = []

    def encode(self, text: str) -> Any:
        return encode_words(text)


class Processing:
    """What the session reads and writes of `StableDiffusionProcessing`."""

    def __init__(self, prompts: list[str], negatives: list[str], **more: Any) -> None:
        self.prompts, self.negative_prompts = list(prompts), list(negatives)
        self.width = self.height = 64
        self.steps, self.cfg_scale, self.sampler_name = 4, 5.0, "Euler"
        self.firstpass_steps = 4
        self.is_hr_pass = self.enable_hr = False
        self.extra_generation_params: dict[str, Any] = {}
        self.extra_network_data: dict[str, Any] = {}
        self.comments: list[str] = []
        vars(self).update(more)

    def comment(self, text: str) -> None:
        self.comments.append(text)

    def sample(self, run: Any) -> Any:
        return run()


def install(monkeypatch: Any, model: Any) -> SimpleNamespace:
    """Put the modules into `sys.modules` for one test; returns the `shared` module."""
    shared = ModuleType("modules.shared")
    shared.sd_model = model
    shared.opts = SimpleNamespace(CLIP_stop_at_last_layers=1, use_old_scheduling=False)
    shared.cmd_opts = SimpleNamespace(api=True, lora_dir=".")
    parts = {
        "modules": ModuleType("modules"),
        "modules.shared": shared,
        "modules.devices": SimpleNamespace(autocast=nullcontext),
        "modules.prompt_parser": SimpleNamespace(
            SdConditioning=SdConditioning, get_learned_conditioning=learned_conditioning
        ),
        "modules.sd_samplers": SimpleNamespace(
            find_sampler_config=lambda name: SimpleNamespace(
                total_steps=lambda steps: 2 * steps if name == "Heun" else steps
            )
        ),
        "modules.extra_networks": SimpleNamespace(parse_prompt=parse_prompt),
        "modules.sd_unet": SimpleNamespace(current_unet=None),
        "modules.processing": SimpleNamespace(),
    }
    for name, module in parts.items():
        monkeypatch.setitem(sys.modules, name, module)
        if "." in name:
            setattr(parts["modules"], name.split(".")[1], module)
    fresh = [name for name in sys.modules if re.match(r"lib_loraclr\.hosts\.(webui|a1111|forge)\b", name)]
    for name in fresh:
        monkeypatch.delitem(sys.modules, name)
    return shared
