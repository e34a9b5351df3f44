"""The port of the regional prompter: what it asks of the WebUI around it. `hosts/webui/regional.py` implements it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from lib_loraclr.model import DiffusionHost
from lib_loraclr.regional.runtime import RegionalRuntime
from lib_loraclr.regional.texts import TextSchedule, TextSchedules

Note = Callable[[str], None]
"""Takes one sentence for the user, about what could not be done."""


class RegionalPass(Protocol):
    """The host's part of one sampling pass."""

    @property
    def ours(self) -> bool:
        """Whether the model that samples now is the one that was hooked."""
        ...

    def step(self, params: Any) -> None:
        """The sampler's next step begins: `params` is what `on_cfg_denoiser` gets."""
        ...

    def stop(self) -> None:
        """Leave nothing behind."""
        ...


class RegionalHost(Protocol):
    """A WebUI. `p` is its processing object, one generation."""

    def refusal(self) -> str | None:
        """Why regions cannot act with the model as it is loaded, as one sentence."""
        ...

    def unet(self, p: Any) -> nn.Module:
        """The module that is called once per model evaluation."""
        ...

    def start(self, p: Any, runtime: RegionalRuntime, texts: TextSchedules, note: Note) -> RegionalPass:
        """Hook the model for one pass."""
        ...

    def loaded_host(self) -> DiffusionHost:
        """The loaded model's layers by name, for LoRAs of single regions. Raises LoraclrError."""
        ...

    def text_scope(self, host: DiffusionHost) -> AbstractContextManager[None]:
        """Scope in which every layer of the text encoder can be hooked."""
        ...

    def encode(self, p: Any, texts: Sequence[str], *, negative: bool, hires: bool) -> list[TextSchedule]:
        """One schedule per text, from the loaded text encoder with the LoRAs that are active now."""
        ...

    def text_state(self, p: Any, *, hires: bool) -> Hashable:
        """All that the encoding of a text depends on besides the text: model, LoRAs, size and steps of the pass."""
        ...

    def parse_tags(self, text: str) -> Mapping[str, Sequence[Any]]:
        """Kind -> the host's objects for the extra-network tags (`<lora:…>`) in a text."""
        ...

    def token_counts(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        """(tokens, room in the chunks they take) of every text; empty while no text encoder is loaded."""
        ...

    def lora_file(self, name: str) -> Path:
        """The file of a LoRA by its name, never by a path. Raises InputError "unknown-lora"."""
        ...

    def lora_metadata(self) -> Mapping[str, Mapping[str, Any]]:
        """Name -> metadata of every LoRA, as far as the host has read them already."""
        ...

    def accordion(self, **options: Any) -> Any:
        """The gradio component that folds the panel, and whose value says whether it is on."""
        ...

    def paste_field(self, component: Any, key: str, api: str) -> Any:
        """What connects a component with the infotext's `key`; `api` is its name in requests."""
        ...

    def plots(self) -> Iterable[tuple[Callable[..., Any], list[Any]]]:
        """(class of an axis, the list of all axes) of every X/Y/Z plot that is loaded."""
        ...
