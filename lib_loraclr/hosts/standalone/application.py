"""`StandaloneApplication`: a folder of LoRAs and a checkpoint in place of a WebUI, for the tab and the API."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import torch

from lib_loraclr.app.catalogue import FolderCatalogue
from lib_loraclr.app.cost import Pace
from lib_loraclr.app.jobs import JobHook, JobRegistry
from lib_loraclr.capture import TensorCache
from lib_loraclr.core.errors import InputError
from lib_loraclr.formats.safetensors_io import SafetensorsFile
from lib_loraclr.hosts.standalone.architecture import family_of, read_architecture
from lib_loraclr.hosts.standalone.load import DTYPES, load_checkpoint, read_yaml
from lib_loraclr.model import DiffusionHost, ModelInfo, resolve_device
from lib_loraclr.version import __version__

Stamp = tuple[Path, int, int]  # path, size and modification time of a checkpoint


class StandaloneApplication:
    """The program around a job where there is no WebUI. One checkpoint stays loaded between jobs."""

    def __init__(
        self,
        lora_folder: Path,
        checkpoint: Path | None = None,
        *,
        device: str = "auto",
        dtype: str = "fp32",
        cache: Path | None = None,
        hook: JobHook | None = None,
    ) -> None:
        self._catalogue = FolderCatalogue(lora_folder)
        self.checkpoint, self.device, self.dtype, self.cache = checkpoint, device, dtype, cache
        self.jobs, self.pace = JobRegistry(hook), Pace()
        self._loading = threading.Lock()
        self._host: tuple[tuple[Stamp, str], DiffusionHost] | None = None
        self._described: tuple[Stamp, ModelInfo] | None = None

    @property
    def name(self) -> str:
        """Program and version."""
        return f"LoRACLR {__version__} without a WebUI"

    @property
    def catalogue(self) -> FolderCatalogue:
        """The folder of LoRAs."""
        return self._catalogue

    def model(self) -> ModelInfo | None:
        """The checkpoint from its header; `sha256` is empty until it was loaded. None without a usable checkpoint."""
        stamp = _stamp(self.checkpoint)
        if stamp is None:
            return None
        if self._host is not None and self._host[0][0] == stamp:
            return self._host[1].info
        if self._described is None or self._described[0] != stamp:
            try:
                self._described = stamp, self._describe(stamp[0])
            except InputError:
                return None
        return self._described[1]

    def open_host(self, checkpoint: Path | None, device: str) -> DiffusionHost:
        """Load `checkpoint`, or the program's own, unless it is loaded. Raises InputError."""
        path = checkpoint or self.checkpoint
        if path is None:
            raise InputError("no-checkpoint", "No checkpoint was chosen; this method needs one.", key="checkpoint")
        stamp, where = _stamp(path), str(resolve_device(device if device != "auto" else self.device))
        with self._loading:
            if stamp is None or self._host is None or self._host[0] != (stamp, where):
                self._host = None  # the old one's memory goes before the new one comes
                host = load_checkpoint(path, device=where, dtype=self.dtype)
                self._host = (stamp or (path, 0, 0), where), host
            return self._host[1]

    def cache_folder(self) -> Path | None:
        """The folder given at the start, else the user's cache folder."""
        return self.cache or TensorCache.default_folder()

    @property
    def open_folder(self) -> Callable[[], None] | None:
        """Not offered: there may be nobody at this machine."""
        return None

    def _describe(self, path: Path) -> ModelInfo:
        file = SafetensorsFile.open(path)
        shapes = {key: info.shape for key, info in file.tensors.items() if not key.startswith("model_ema.")}
        family_of(shapes, path.name)
        yaml_path = path.with_suffix(".yaml")
        yaml = read_yaml(yaml_path) if yaml_path.is_file() else None
        sizes = read_architecture(shapes, yaml, path.name, yaml_path.name)
        device = resolve_device(self.device)
        return ModelInfo(path.stem, sizes.family, "", sizes.native_size, torch.device(device), DTYPES[self.dtype])


def _stamp(path: Path | None) -> Stamp | None:
    try:
        status = path.stat() if path is not None else None
    except OSError:
        return None
    return None if path is None or status is None else (path, status.st_size, status.st_mtime_ns)
