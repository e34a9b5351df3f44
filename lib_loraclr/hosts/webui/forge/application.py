"""`ForgeApplication`: the WebUI whose engines carry `forge_objects`."""

from __future__ import annotations

from pathlib import Path

from lib_loraclr.hosts.webui.application import WebuiApplication
from lib_loraclr.hosts.webui.catalogue import lora_extension
from lib_loraclr.hosts.webui.forge import model as loaded
from lib_loraclr.hosts.webui.forge.host import ForgeHost
from lib_loraclr.hosts.webui.forge.selected import describe_selected, selected_checkpoint
from lib_loraclr.model import DiffusionHost, ModelInfo
from lib_loraclr.regional.port import RegionalHost

STALE = "replaced"  # equals no list of patches


class ForgeApplication(WebuiApplication):
    """Forge and what is built like it."""

    title = "Forge"

    def model(self) -> ModelInfo | None:
        """The chosen checkpoint, which the next job loads unless it is in memory."""
        engine, chosen = loaded.loaded_model(), selected_checkpoint()
        if engine is not None and chosen in (None, engine.sd_checkpoint_info):
            return loaded.describe(engine)
        return describe_selected()

    def open_host(self, checkpoint: Path | None, device: str) -> DiffusionHost:
        """The chosen checkpoint's engine; both arguments are for programs that load checkpoints themselves."""
        return ForgeHost(loaded.require_model())

    def loaded_host(self) -> DiffusionHost:
        """The model in memory."""
        return ForgeHost(loaded.loaded_model())

    def regional(self) -> RegionalHost:
        """See `forge/regional`."""
        from lib_loraclr.hosts.webui.forge.regional import ForgeRegional

        return ForgeRegional(self)

    def forget(self, name: str) -> None:
        """Make Forge read and merge LoRAs anew: it recognises patches by file name and weight alone."""
        clear = getattr(getattr(lora_extension(), "load_lora_state_dict", None), "cache_clear", None)
        if clear is not None:
            clear()
        engine = loaded.loaded_model()
        if engine is not None:
            engine.current_lora_hash = STALE
            for patcher in (engine.forge_objects_original.unet, engine.forge_objects_original.clip.patcher):
                if hasattr(patcher, "lora_loader"):  # Neo's patchers have none and are new for every list of LoRAs
                    patcher.lora_loader.loaded_hash = STALE
