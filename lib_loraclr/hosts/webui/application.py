"""What the `Application` of every WebUI of the family does the same way; an adapter adds the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from modules import launch_utils, shared, util

from lib_loraclr.app.application import JobState
from lib_loraclr.app.jobs import TaskBoard
from lib_loraclr.capture import TensorCache
from lib_loraclr.hosts.webui import settings
from lib_loraclr.hosts.webui.catalogue import WebuiCatalogue
from lib_loraclr.hosts.webui.progress import WebuiProgress, interrupted, webui_job
from lib_loraclr.model import DiffusionHost, ModelInfo, Phase, Progress
from lib_loraclr.regional.port import RegionalHost


class WebuiApplication:
    """The WebUI around a job. Subclasses name themselves and know the loaded model."""

    title = "WebUI"

    def __init__(self) -> None:
        self._catalogue = WebuiCatalogue(self.forget)
        self._board = TaskBoard()

    @property
    def name(self) -> str:
        """Program and version."""
        return f"{self.title} {launch_utils.git_tag()}"

    @property
    def catalogue(self) -> WebuiCatalogue:
        """The WebUI's LoRAs."""
        return self._catalogue

    def model(self) -> ModelInfo | None:
        """The loaded checkpoint."""
        raise NotImplementedError

    def open_host(self, checkpoint: Path | None, device: str) -> DiffusionHost:
        """The loaded model as a host."""
        raise NotImplementedError

    def loaded_host(self) -> DiffusionHost:
        """The model in memory as a host; nothing is loaded for it."""
        raise NotImplementedError

    def regional(self) -> RegionalHost:
        """This WebUI's port of the regional prompter."""
        raise NotImplementedError

    def forget(self, name: str) -> None:
        """Drop what the loaded model has of the LoRA `name`."""
        raise NotImplementedError

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

    def job(
        self, title: str, task_id: str, phases: Sequence[tuple[Phase, float]] = ()
    ) -> AbstractContextManager[Progress]:
        """Scope of one job in the WebUI's queue."""
        progress = WebuiProgress(title, phases, interrupted)
        return webui_job(self._board, task_id, progress)

    def cancel(self, task_id: str) -> bool:
        """Ask a waiting or running job to stop."""
        return self._board.cancel(task_id)

    def progress(self, task_id: str) -> JobState:
        """Where a job stands."""
        return self._board.progress(task_id)


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
