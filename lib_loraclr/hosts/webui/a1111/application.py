"""`A1111Application`: the WebUI whose models are of the original code base."""

from __future__ import annotations

from pathlib import Path

from lib_loraclr.hosts.webui.a1111 import model as loaded
from lib_loraclr.hosts.webui.a1111.host import A1111Host
from lib_loraclr.hosts.webui.a1111.networks import forget
from lib_loraclr.hosts.webui.application import WebuiApplication
from lib_loraclr.model import DiffusionHost, ModelInfo
from lib_loraclr.regional.port import RegionalHost


class A1111Application(WebuiApplication):
    """A1111 and what is built like it."""

    title = "A1111"

    def model(self) -> ModelInfo | None:
        """The checkpoint in memory; None before the first one."""
        model = loaded.loaded_model()
        return None if model is None else loaded.describe(model)

    def open_host(self, checkpoint: Path | None, device: str) -> DiffusionHost:
        """The loaded model; both arguments are for programs that load checkpoints themselves."""
        return A1111Host(loaded.require_model())

    def loaded_host(self) -> DiffusionHost:
        """The model in memory."""
        return A1111Host(loaded.loaded_model())

    def regional(self) -> RegionalHost:
        """See `a1111/regional`."""
        from lib_loraclr.hosts.webui.a1111.regional import A1111Regional

        return A1111Regional(self)

    def forget(self, name: str) -> None:
        """Drop what the Lora extension and the model have of `name`."""
        forget(loaded.loaded_model(), name)
