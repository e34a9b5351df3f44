"""What the AlwaysVisible script and its callbacks do, apart from being a script."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modules import infotext_utils, ui_components

from lib_loraclr.frontends.panel.arguments import read_arguments
from lib_loraclr.frontends.panel.axes import ATTRIBUTE as AXES
from lib_loraclr.frontends.panel.axes import with_axes
from lib_loraclr.frontends.panel.layouts import LayoutStore
from lib_loraclr.frontends.panel.services import Concept, concepts_of
from lib_loraclr.hosts.webui.catalogue import lora_extension
from lib_loraclr.hosts.webui.regional_session import ATTRIBUTE, KEY, Adapter, RegionalSession, session_of, tell
from lib_loraclr.regional.service import read_regions

KEY_ON = "Regional on"
LAYOUTS = LayoutStore(Path(__file__).resolve().parents[3] / "user" / "regional")
_sampling = threading.local()


def adapter() -> Adapter:
    """The adapter for this host, by what is there."""
    if "backend.memory_management" in sys.modules or "ldm_patched.modules.model_management" in sys.modules:
        from lib_loraclr.hosts.webui.forge.regional import ForgeAdapter

        return ForgeAdapter()
    from lib_loraclr.hosts.webui.a1111.regional import A1111Adapter

    return A1111Adapter()


class WebuiServices:
    """Token counts and concepts for the panel; nothing here loads a model."""

    def count_tokens(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        """By the loaded text encoder; empty without one."""
        count = token_counter()
        if count is None:
            return []
        found = [count(text) for text in texts]
        return [(int(used), int(room)) for used, room in found if isinstance(used, int)]

    def concepts(self) -> list[Concept]:
        """Of every LoRA that was merged here, from the metadata that the host has read already."""
        networks = lora_extension()
        known = dict(networks.available_networks) if networks is not None else {}
        return [
            concept
            for name, network in sorted(known.items(), key=lambda item: item[0].lower())
            for concept in concepts_of(name, getattr(network, "metadata", None) or {})
        ]


def token_counter() -> Callable[[str], tuple[Any, Any]] | None:
    """The host's own (tokens, room) of a prompt; None while no model is loaded."""
    from modules import sd_models

    model = getattr(sd_models.model_data, "sd_model", None)
    if hasattr(model, "get_prompt_lengths_on_ui"):
        return model.get_prompt_lengths_on_ui
    try:
        from modules.sd_hijack import model_hijack
    except ImportError:
        return None
    return model_hijack.get_prompt_lengths if getattr(model_hijack, "clip", None) is not None else None


def build_ui(script: Any, is_img2img: bool) -> list[Any]:
    """Components of the script in one tab, in the order of the API's arguments: enabled, regions."""
    from lib_loraclr.frontends.panel.panel import build_panel  # gradio, which the rest does without

    tab = "img2img" if is_img2img else "txt2img"
    enabled, spec = build_panel(tab, script.elem_id, ui_components.InputAccordion, WebuiServices(), LAYOUTS)
    script.infotext_fields = [
        infotext_utils.PasteField(enabled, KEY_ON, api="regional_on"),
        infotext_utils.PasteField(spec, KEY, api="regional"),
    ]
    script.paste_field_names = [KEY_ON, KEY]
    return [enabled, spec]


def begin(p: Any, given: Sequence[Any]) -> None:
    """The generation begins. A disabled script leaves here without having touched anything."""
    vars(p).pop(ATTRIBUTE, None)
    enabled, raw = with_axes(*read_arguments(given), getattr(p, AXES, {}))
    if not enabled or getattr(p, "_ad_inner", False):
        return
    spec, problems = read_regions(raw)
    if problems:
        tell(p, [f"not used. {problems[0].message}"])
        return
    if not spec.active():
        return
    session = RegionalSession(spec, adapter(), triggers())
    setattr(p, ATTRIBUTE, session)
    session.begin(p, spec)


def triggers() -> Mapping[str, str]:
    """Concept -> trigger, of all merged files."""
    return {concept.name: concept.trigger for concept in WebuiServices().concepts() if concept.trigger}


def before_batch(p: Any, prompts: list[str]) -> None:
    """Before the host reads the tags of this batch's prompts."""
    session = session_of(p)
    if session is not None:
        session.before_batch(p, prompts)


def before_sampling(p: Any) -> None:
    """Prompts are final; the host encodes them and samples next."""
    session = session_of(p)
    if session is not None:
        session.around_sampling(p)


def start_pass(p: Any, latents: Any) -> None:
    """The sampler runs next on these latents."""
    session = session_of(p)
    _sampling.session = session
    if session is not None:
        session.start_pass(p, latents)


def denoiser(params: Any) -> None:
    """`on_cfg_denoiser`."""
    p = getattr(params.denoiser, "p", None)
    session = session_of(p)
    if session is not None:
        session.step(p, params)


def denoised(params: Any) -> None:
    """`on_cfg_denoised`, which only A1111 calls: it does not say for whom, so it is the session of this thread."""
    session: RegionalSession | None = getattr(_sampling, "session", None)
    guide = getattr(session.running, "guide", None) if session is not None else None
    if guide is not None:
        guide(params)


def end(p: Any) -> None:
    """The generation is over."""
    session = session_of(p)
    _sampling.session = None
    if session is not None:
        session.stop(p)
        vars(p).pop(ATTRIBUTE, None)


def pasted(infotext: str, params: dict[str, Any]) -> None:
    """`on_infotext_pasted`: a picture without regions switches them off."""
    params[KEY_ON] = str(KEY in params)
