"""What the tab and the HTTP API need of the program they live in: a WebUI, or the plain gradio page.

No host import here. `hosts/a1111`, `hosts/forge` and `hosts/standalone` implement `Application`; `jobs`, `ui` and `api`
see nothing else of a WebUI.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lib_loraclr.app.cost import Pace
from lib_loraclr.app.jobs import JobRegistry
from lib_loraclr.model import DiffusionHost, ModelInfo


@dataclass(frozen=True)
class CatalogueEntry:
    """One LoRA file of the user's network folder.

    `name` is unique in the catalogue and is what `<lora:name:1>`, the API and the tab use; paths never leave the
    process. `user_metadata` is the sidecar's content ("activation text", "preferred weight", "sd version", ...).
    """

    name: str
    path: Path
    thumbnail: Path | None = None
    user_metadata: Mapping[str, Any] = field(default_factory=dict)


class Catalogue(Protocol):
    """The LoRA files that the program knows."""

    def entries(self, *, refresh: bool = False) -> Sequence[CatalogueEntry]:
        """All entries, sorted by name; `refresh` makes the program read its folders again first."""
        ...

    def folder(self) -> Path:
        """Where merged files are written."""
        ...

    def written(self, path: Path) -> None:
        """A file in `folder()` is new or was replaced: lists, gallery and loaded networks must notice."""
        ...


class Application(Protocol):
    """The program around its jobs. One runs at a time: `jobs` is the only way to run one."""

    @property
    def name(self) -> str:
        """Name and version for the recipe and the About line, such as "A1111 v1.10.1"."""
        ...

    @property
    def catalogue(self) -> Catalogue: ...

    @property
    def jobs(self) -> JobRegistry:
        """Everything that runs, waits or has run in this program."""
        ...

    @property
    def pace(self) -> Pace:
        """How fast merges were here."""
        ...

    def model(self) -> ModelInfo | None:
        """The checkpoint that a job would use now; cheap (no loading, no hashing); None when there is none.

        `sha256` is empty while the hash is not known.
        """
        ...

    def open_host(self, checkpoint: Path | None, device: str) -> DiffusionHost:
        """The loaded model as a host for `jobs`; a WebUI ignores `checkpoint` and takes what is loaded.

        Raises InputError("no-checkpoint") when nothing is loaded and InputError("unsupported-model") when the loaded
        architecture cannot be captured.
        """
        ...

    def cache_folder(self) -> Path | None:
        """Where captured statistics are kept between jobs (None: nowhere)."""
        ...

    @property
    def open_folder(self) -> Callable[[], None] | None:
        """Shows `catalogue.folder()` in the file manager of the machine that the program runs on; None: not allowed."""
        ...
