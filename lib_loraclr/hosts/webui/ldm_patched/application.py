"""`LdmPatchedApplication`: the WebUI whose models carry `forge_objects` of `ldm_patched`."""

from __future__ import annotations

from pathlib import Path

from lib_loraclr.hosts.webui.application import WebuiApplication
from lib_loraclr.hosts.webui.catalogue import lora_extension
from lib_loraclr.hosts.webui.ldm_patched import model as loaded
from lib_loraclr.hosts.webui.ldm_patched.host import LdmPatchedHost
from lib_loraclr.model import DiffusionHost, ModelInfo
from lib_loraclr.regional.port import RegionalHost

STALE = "replaced"  # equals no list of LoRAs


class LdmPatchedApplication(WebuiApplication):
    """reForge, Classic and what is built like them."""

    title = "WebUI on ldm_patched"

    def model(self) -> ModelInfo | None:
        """The checkpoint in memory; None before the first one."""
        model = loaded.loaded_model()
        return None if model is None else loaded.describe(model)

    def open_host(self, checkpoint: Path | None, device: str) -> DiffusionHost:
        """The loaded model; both arguments are for programs that load checkpoints themselves."""
        return LdmPatchedHost(loaded.require_model())

    def loaded_host(self) -> DiffusionHost:
        """The model in memory."""
        return LdmPatchedHost(loaded.loaded_model())

    def regional(self) -> RegionalHost:
        """See `forge/regional`."""
        from lib_loraclr.hosts.webui.forge.regional import ForgeRegional

        return ForgeRegional(self)

    def forget(self, name: str) -> None:
        """Make the WebUI read and merge LoRAs anew: it recognises them by file name and weight alone."""
        clear = getattr(getattr(lora_extension(), "load_lora_state_dict", None), "cache_clear", None)
        if clear is not None:
            clear()
        model = loaded.loaded_model()
        if model is not None:
            model.current_lora_hash = STALE
