"""The regional prompter's port in a WebUI of the family; an adapter adds how its sampler is hooked.

Texts go through the WebUI's own prompt parser, so prompt editing, emphasis, textual inversion and long prompts work in
a region as they do in the main prompt.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from modules import devices, extra_networks, prompt_parser, sd_samplers, shared
from torch import Tensor, nn

from lib_loraclr.app.catalogue import entry_of
from lib_loraclr.hosts.webui.catalogue import lora_extension
from lib_loraclr.model import DiffusionHost
from lib_loraclr.regional.conditions import Encoded
from lib_loraclr.regional.port import Note, RegionalPass
from lib_loraclr.regional.runtime import RegionalRuntime
from lib_loraclr.regional.texts import TextSchedule, TextSchedules

if TYPE_CHECKING:
    from lib_loraclr.hosts.webui.application import WebuiApplication

PLOTS = ("xyz_grid.py", "scripts.xyz_grid", "xy_grid.py")  # names of the X/Y/Z plot's module in the hosts


class WebuiRegional:
    """See `regional.port.RegionalHost`. Subclasses implement `unet` and `start`."""

    def __init__(self, application: WebuiApplication) -> None:
        self._application = application

    def refusal(self) -> str | None:
        """Nothing is known to be in the way."""
        return None

    def unet(self, p: Any) -> nn.Module:
        """The module that is called once per model evaluation."""
        raise NotImplementedError

    def start(self, p: Any, runtime: RegionalRuntime, texts: TextSchedules, note: Note) -> RegionalPass:
        """Hook the model for one pass."""
        raise NotImplementedError

    def loaded_host(self) -> DiffusionHost:
        """The model in memory."""
        return self._application.loaded_host()

    def text_scope(self, host: Any) -> AbstractContextManager[None]:
        """Nothing to do where text encoders call all their layers."""
        return nullcontext()

    def encode(self, p: Any, texts: Sequence[str], *, negative: bool, hires: bool) -> list[TextSchedule]:
        """One schedule per text, from the loaded text encoder with the LoRAs that are active now."""
        width, height = _size(p, hires)
        prompts = prompt_parser.SdConditioning(list(texts), is_negative_prompt=negative, width=width, height=height)
        model: Any = shared.sd_model
        steps, hires_steps = _steps(p, hires)
        with torch.no_grad(), devices.autocast():
            if hasattr(model, "set_clip_skip"):
                model.set_clip_skip(int(shared.opts.CLIP_stop_at_last_layers))
            schedules = prompt_parser.get_learned_conditioning(
                model, prompts, steps, hires_steps, **_old_scheduling(prompt_parser.get_learned_conditioning)
            )
        return [
            TextSchedule(tuple((int(entry.end_at_step), _encoded(entry.cond)) for entry in schedule))
            for schedule in schedules
        ]

    def text_state(self, p: Any, *, hires: bool) -> Hashable:
        """Size and steps of the pass, the LoRAs that are on, the model and its clip skip."""
        skip = int(shared.opts.CLIP_stop_at_last_layers)
        return _size(p, hires), _steps(p, hires), _networks(p, hires), id(shared.sd_model), skip

    def parse_tags(self, text: str) -> Mapping[str, Sequence[Any]]:
        """By the WebUI's own parser."""
        return extra_networks.parse_prompt(text)[1]

    def token_counts(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        """By the loaded text encoder; empty without one."""
        count = _token_counter()
        counts = [] if count is None else [count(text) for text in texts]
        return [(int(used), int(room)) for used, room in counts if isinstance(used, int)]

    def lora_file(self, name: str) -> Path:
        """By the WebUI's own list."""
        return entry_of(self._application.catalogue, name).path

    def lora_metadata(self) -> Mapping[str, Mapping[str, Any]]:
        """Of every LoRA that the Lora extension knows."""
        networks = lora_extension()
        known = {} if networks is None else dict(networks.available_networks)
        return {name: getattr(network, "metadata", None) or {} for name, network in known.items()}

    def accordion(self, **options: Any) -> Any:
        """The WebUI's InputAccordion."""
        from modules import ui_components

        return ui_components.InputAccordion(**options)

    def paste_field(self, component: Any, key: str, api: str) -> Any:
        """The WebUI's PasteField."""
        from modules import infotext_utils

        return infotext_utils.PasteField(component, key, api=api)

    def plots(self) -> Iterator[tuple[Callable[..., Any], list[Any]]]:
        """The built-in script's, and any of the same make."""
        from modules import scripts

        for data in scripts.scripts_data:
            if data.script_class.__module__ in PLOTS and hasattr(data.module, "AxisOption"):
                yield data.module.AxisOption, data.module.axis_options


def _size(p: Any, hires: bool) -> tuple[int, int]:
    """(width, height) in pixels of a pass."""
    return (p.hr_upscale_to_x, p.hr_upscale_to_y) if hires else (p.width, p.height)


def _steps(p: Any, hires: bool) -> tuple[int, int | None]:
    """(steps, hires steps) as the WebUI gives them to the prompt parser: times two for second-order samplers."""
    first = getattr(p, "firstpass_steps", None) or _total_steps(p.sampler_name, p.steps)
    if not hires:
        return first, None
    return first, _total_steps(p.hr_sampler_name or p.sampler_name, p.hr_second_pass_steps or p.steps)


def _total_steps(sampler: str, steps: int) -> int:
    config = sd_samplers.find_sampler_config(sampler)
    return int(config.total_steps(steps)) if config else steps


def _networks(p: Any, hires: bool) -> str:
    """LoRAs change the text encoder, so they are part of what a text's encoding depends on."""
    data: Any = getattr(p, "hr_extra_network_data" if hires else "extra_network_data", None) or {}
    return repr({kind: [getattr(one, "items", None) for one in used] for kind, used in data.items()})


def _old_scheduling(parser: Callable[..., Any]) -> dict[str, bool]:
    """The WebUI's setting, as an argument for the parsers that know it: Forge Neo's has lost the parameter."""
    if "use_old_scheduling" not in inspect.signature(parser).parameters:
        return {}
    return {"use_old_scheduling": bool(getattr(shared.opts, "use_old_scheduling", False))}


def _encoded(cond: Any) -> Encoded:
    return Encoded(cond) if isinstance(cond, Tensor) else Encoded(cond["crossattn"], cond.get("vector"))


def _token_counter() -> Callable[[str], tuple[Any, Any]] | None:
    """The WebUI's own (tokens, room) of a prompt; None while no model is loaded."""
    from modules import sd_models

    model: Any = getattr(sd_models.model_data, "sd_model", None)
    if hasattr(model, "get_prompt_lengths_on_ui"):
        return model.get_prompt_lengths_on_ui
    try:
        from modules.sd_hijack import model_hijack
    except ImportError:
        return None
    return model_hijack.get_prompt_lengths if getattr(model_hijack, "clip", None) is not None else None
