"""What the `Application` of every WebUI of the family does the same way; an adapter adds the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules import launch_utils, shared, util

from lib_loraclr.app.cost import Pace
from lib_loraclr.app.jobs import JobRegistry
from lib_loraclr.capture import TensorCache
from lib_loraclr.hosts.webui import settings
from lib_loraclr.hosts.webui.catalogue import WebuiCatalogue
from lib_loraclr.hosts.webui.checkpoint import no_checkpoint
from lib_loraclr.hosts.webui.progress import WebuiHook
from lib_loraclr.model import DiffusionHost, ModelInfo
from lib_loraclr.regional.port import RegionalHost


@dataclass(frozen=True)
class WebuiFamily:
    """One family of WebUIs: how they keep the loaded model, each a function of the family's own module.

    `loaded` is the model in memory, None before the first one; `required` loads it if need be, and raises InputError
    "no-checkpoint" and "unsupported-model"; `info` describes the checkpoint that a job would use now; `forget` drops
    what the loaded model has of a LoRA, by its name; `regional` is the port of the regional prompter.
    """

    title: str
    loaded: Callable[[], Any | None]
    required: Callable[[], Any]
    info: Callable[[], ModelInfo | None]
    host: Callable[[Any], DiffusionHost]
    forget: Callable[[Any | None, str], None]
    regional: Callable[[WebuiApplication], RegionalHost]


class WebuiApplication:
    """The WebUI around a job."""

    def __init__(self, family: WebuiFamily) -> None:
        self.family = family
        self._catalogue = WebuiCatalogue(self.forget)
        self.jobs, self.pace = JobRegistry(WebuiHook()), Pace()

    @property
    def name(self) -> str:
        """Program and version."""
        return f"{self.family.title} {launch_utils.git_tag()}"

    @property
    def catalogue(self) -> WebuiCatalogue:
        """The WebUI's LoRAs."""
        return self._catalogue

    def model(self) -> ModelInfo | None:
        """The checkpoint that a job would use now."""
        return self.family.info()

    def open_host(self, checkpoint: Path | None, device: str) -> DiffusionHost:
        """The WebUI's model; both arguments are for programs that load checkpoints themselves."""
        return self.family.host(self.family.required())

    def loaded_host(self) -> DiffusionHost:
        """The model in memory as a host; nothing is loaded for it. Raises InputError "no-checkpoint"."""
        model = self.family.loaded()
        if model is None:
            raise no_checkpoint()
        return self.family.host(model)

    def regional(self) -> RegionalHost:
        """This WebUI's port of the regional prompter."""
        return self.family.regional(self)

    def forget(self, name: str) -> None:
        """Drop what the loaded model has of the LoRA `name`, whose file was replaced."""
        self.family.forget(self.family.loaded(), name)

    def cache_folder(self) -> Path | None:
        """By the user's settings."""
        return settings.cache_folder(TensorCache.default_folder())

    @property
    def open_folder(self) -> Callable[[], None] | None:
        """Shows the LoRA folder in the machine's file manager; None where the WebUI cannot, or hides such buttons."""
        show: Any = getattr(util, "open_folder", None)
        if show is None or shared.cmd_opts.hide_ui_dir_config:
            return None
        return lambda: show(str(self.catalogue.folder()))


def api_credentials() -> dict[str, str] | None:
    """User name -> password of `--api-auth`; None where the API is open. The WebUI's own format: a:b,c:d."""
    given = str(getattr(shared.cmd_opts, "api_auth", None) or "")
    if not given:
        return None
    pairs = (pair.split(":", 1) for pair in given.split(","))
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def api_wanted() -> bool:
    """Whether the WebUI was started with `--api`."""
    options: Any = shared.cmd_opts
    return bool(options.api or getattr(options, "nowebui", False))
