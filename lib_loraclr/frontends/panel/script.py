"""The AlwaysVisible script and its callbacks, apart from being a script: what `scripts/loraclr_regional.py` calls."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib_loraclr.frontends.panel.axes import ATTRIBUTE as AXES
from lib_loraclr.frontends.panel.axes import add_axes, with_axes
from lib_loraclr.frontends.panel.layouts import BUILT_IN, LayoutStore
from lib_loraclr.frontends.panel.services import Concept, concepts_of
from lib_loraclr.frontends.panel.session import ATTRIBUTE, KEY, RegionalSession, session_of, tell
from lib_loraclr.regional.layout import read_regions
from lib_loraclr.regional.port import RegionalHost

KEY_ON = "Regional on"
LAYOUTS = Path(__file__).resolve().parents[3] / "user" / "regional"


class RegionalScript:
    """The script of one WebUI. `p` is the WebUI's processing object, which carries the session of its generation."""

    def __init__(self, host: RegionalHost, layouts: Path = LAYOUTS) -> None:
        self._host, self._layouts = host, LayoutStore(layouts)
        self._sampling = threading.local()

    def build(self, script: Any, is_img2img: bool) -> list[Any]:
        """Components of the script in one tab, in the order of the API's arguments: enabled, regions."""
        from lib_loraclr.frontends.panel.panel import build_panel  # gradio, which the rest does without

        tab = "img2img" if is_img2img else "txt2img"
        enabled, spec = build_panel(tab, script.elem_id, self._host.accordion, self, self._layouts)
        script.infotext_fields = [
            self._host.paste_field(enabled, KEY_ON, "regional_on"),
            self._host.paste_field(spec, KEY, "regional"),
        ]
        script.paste_field_names = [KEY_ON, KEY]
        return [enabled, spec]

    def begin(self, p: Any, args: Sequence[Any]) -> None:
        """The generation begins. A disabled script leaves here without having touched anything."""
        vars(p).pop(ATTRIBUTE, None)
        enabled, raw = with_axes(*read_arguments(args), getattr(p, AXES, {}))
        if not enabled or getattr(p, "_ad_inner", False):
            return
        spec, problems = read_regions(raw)
        if problems:
            tell(p, [f"not used. {problems[0].message}"])
            return
        if not spec.active():
            return
        session = RegionalSession(spec, self._host, self._triggers())
        setattr(p, ATTRIBUTE, session)
        session.begin(p, spec)

    def before_batch(self, p: Any, prompts: list[str]) -> None:
        """Before the host reads the tags of this batch's prompts."""
        session = session_of(p)
        if session is not None:
            session.before_batch(p, prompts)

    def before_sampling(self, p: Any) -> None:
        """Prompts are final; the host encodes them and samples next."""
        session = session_of(p)
        if session is not None:
            session.around_sampling(p)

    def start_pass(self, p: Any, latents: Any) -> None:
        """The sampler runs next on these latents."""
        session = self._sampling.session = session_of(p)
        if session is not None:
            session.start_pass(p, latents)

    def step(self, params: Any) -> None:
        """`on_cfg_denoiser`."""
        p = getattr(params.denoiser, "p", None)
        session = session_of(p)
        if session is not None:
            session.step(p, params)

    def guide(self, params: Any) -> None:
        """`on_cfg_denoised`, which only A1111 calls: it does not say for whom, so it is the session of this thread."""
        session: RegionalSession | None = getattr(self._sampling, "session", None)
        guide = getattr(session.running, "guide", None) if session is not None else None
        if guide is not None:
            guide(params)

    def end(self, p: Any) -> None:
        """The generation is over."""
        session = session_of(p)
        self._sampling.session = None
        if session is not None:
            session.stop(p)
            vars(p).pop(ATTRIBUTE, None)

    def pasted(self, infotext: str, params: dict[str, Any]) -> None:
        """`on_infotext_pasted`: a picture without regions switches them off."""
        params[KEY_ON] = str(KEY in params)

    def add_axes(self) -> None:
        """Put the regional axes into the X/Y/Z plot, once. Never raises: the WebUI starts without them, too."""
        try:
            add_axes(self._host.plots(), self._saved_layouts)
        except Exception:
            logging.getLogger("loraclr").exception("The regional axes could not be added to the X/Y/Z plot.")

    def count_tokens(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        """For the panel: (tokens, room) of every text."""
        return self._host.token_counts(texts)

    def concepts(self) -> list[Concept]:
        """For the panel: the concepts of every LoRA that was merged here."""
        known = sorted(self._host.lora_metadata().items(), key=lambda item: item[0].lower())
        return [concept for name, metadata in known for concept in concepts_of(name, metadata)]

    def _triggers(self) -> Mapping[str, str]:
        """Concept -> trigger, of all merged files."""
        return {concept.name: concept.trigger for concept in self.concepts() if concept.trigger}

    def _saved_layouts(self) -> list[tuple[str, str]]:
        """(name, JSON) of all layouts."""
        return [(name, self._layouts.load(name)) for name in (*BUILT_IN, *self._layouts.names())]


OFF = ("", "false", "0", "no", "off", "none")


def read_arguments(given: Sequence[Any]) -> tuple[bool, Any]:
    """(enabled, regions) of `[enabled, spec]`, `[spec]`, `[{"enabled": …, "spec": …}]` or nothing.

    `spec` may be an object, its JSON text, or None. A spec alone means enabled. The spec itself is not checked here.
    """
    arguments = list(given)
    if not arguments:
        return False, None
    first = arguments[0]
    if isinstance(first, str) and first.lstrip().startswith("{"):
        first = _object(first)
    if isinstance(first, Mapping):
        if "spec" in first or "enabled" in first:
            return _flag(first.get("enabled", True)), first.get("spec")
        return True, first
    return _flag(first), arguments[1] if len(arguments) > 1 else None


def _flag(value: Any) -> bool:
    return value.strip().lower() not in OFF if isinstance(value, str) else bool(value)


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {"enabled": True, "spec": text}
