"""One generation with regions: from the script's arguments to the hooks, and back to a clean host.

The script calls `begin`, `before_batch`, `around_sampling` and `start_pass`; the callbacks call `step`. The session
lives on the processing object, never on the script, so that nothing outlives a generation that fails.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from lib_loraclr.core.errors import InputError, LoraclrError
from lib_loraclr.frontends.panel.encoding import RegionLoras, TextEncoder
from lib_loraclr.regional import RegionalSpec, dump_spec
from lib_loraclr.regional.layout import split_prompt_text
from lib_loraclr.regional.port import RegionalHost, RegionalPass
from lib_loraclr.regional.runtime import RegionalRuntime
from lib_loraclr.regional.sites import find_sites
from lib_loraclr.regional.weights import RegionWeights

ATTRIBUTE = "_loraclr_regional"
KEY, KEY_NOTES = "Regional", "Regional notes"
FAILED = "Regions did not act, the picture is the plain prompt's: {}. The console has the details."
LOG = logging.getLogger("loraclr")
TAG = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>")


class RegionalSession:
    """One generation. `spec` has at least one active region."""

    def __init__(self, spec: RegionalSpec, host: RegionalHost, triggers: Mapping[str, str]) -> None:
        self.spec, self._tags = without_tags(spec)
        self._host = host
        self._texts = TextEncoder(host, self._spec_of, triggers)
        self._parts: dict[bool, list[list[str]]] = {}  # text mode: hires -> picture -> its own prompt, region prompts
        self._notes: list[str] = []
        self._pass: RegionalPass | None = None
        self._runtime: RegionalRuntime | None = None
        self._size = (0, 0)
        self._loras: tuple[nn.Module, RegionLoras | None] | None = None

    def begin(self, p: Any, written: RegionalSpec) -> None:
        """The generation begins: the infotext gets the regions as the user `written` them."""
        p.extra_generation_params[KEY] = dump_spec(written)
        if self._tags:
            self._note(p, "LoRA tags in region prompts act on the whole picture.")

    def before_batch(self, p: Any, prompts: list[str]) -> None:
        """Before the host reads `<lora:…>` tags: those of the regions join the first prompt's, and only there.

        In text mode the picture's own prompt stays behind, in place of the whole text.
        """
        self._parts.clear()
        if self.spec.mode == "text":
            self._take_parts(p, prompts, hires=False)
        if prompts and self._tags:
            prompts[0] = " ".join([prompts[0], *(tag for tag in self._tags if tag not in prompts[0])])

    def around_sampling(self, p: Any) -> None:
        """Make sure that this batch's sampling leaves no hook, however it ends."""
        self._share_tags_with_hires(p)
        if self.spec.mode == "text" and getattr(p, "enable_hr", False):
            self._take_parts(p, p.hr_prompts, hires=True)
        own = vars(p).get("sample")
        original = p.sample

        def sample(*given: Any, **named: Any) -> Any:
            try:
                return original(*given, **named)
            finally:
                self.stop(p)
                if own is None:
                    vars(p).pop("sample", None)
                else:
                    p.sample = own

        p.sample = sample

    def start_pass(self, p: Any, latents: Any) -> None:
        """Right before the sampler runs on `latents` (b, c, h, w); called twice by some hosts for one pass."""
        self.stop(p)
        self._or_plain(p, lambda: self._start(p, latents))

    def _start(self, p: Any, latents: Any) -> None:
        reason = self._host.refusal()
        if reason is not None:
            self._note(p, reason)
            return
        self._size = int(latents.shape[-2]), int(latents.shape[-1])
        self._hook(p)

    def step(self, p: Any, params: Any) -> None:
        """A step of the sampler. A refiner that has taken over is hooked as the first model was."""
        if self._pass is not None:
            self._or_plain(p, lambda: self._step(p, params))

    def _step(self, p: Any, params: Any) -> None:
        if self._pass is not None and not self._pass.ours:
            self.stop(p)
            self._texts.forget()
            self._hook(p)
        running = self.running
        if running is not None:
            running.step(params)

    def _or_plain(self, p: Any, act: Callable[[], None]) -> None:
        """End the regions and say so where `act` raises: hosts swallow it, and the picture would claim regions."""
        try:
            act()
        except Exception as error:
            LOG.exception("The regions of a picture failed.")
            self.stop(p)
            p.extra_generation_params.pop(KEY, None)
            self._note(p, FAILED.format(f"{type(error).__name__}: {error}"))

    @property
    def running(self) -> RegionalPass | None:
        """The pass that is going on."""
        return self._pass

    def stop(self, p: Any) -> None:
        """Remove every hook; keep what the runtime has to say."""
        if self._pass is not None:
            self._pass.stop()
        if self._runtime is not None:
            self._runtime.remove()
            for sentence in self._runtime.notes:
                self._note(p, sentence)
        self._pass = self._runtime = None

    def _hook(self, p: Any) -> None:
        hires = bool(getattr(p, "is_hr_pass", False))
        region_weights = RegionWeights(self.spec, *self._size, hires=hires)
        sites = find_sites(self._host.unet(p))
        if not sites.blocks:
            self._note(p, "This model has no cross-attention that regions could act on.")
            return
        runtime = RegionalRuntime(region_weights, sites)
        if runtime.idle:
            return
        loras = self._own_loras(p)
        texts = self._texts.schedules(p, hires=hires, loras=loras)
        self._runtime = runtime
        runtime.install(None if loras is None else loras.unet())
        self._pass = self._host.start(p, runtime, texts, lambda sentence: self._note(p, sentence))

    def _own_loras(self, p: Any) -> RegionLoras | None:
        """The LoRAs of single regions on the model that samples now, read once for each model."""
        if not any(region.loras for region in self.spec.active()):
            return None
        unet = self._host.unet(p)
        if self._loras is None or self._loras[0] is not unet:
            try:
                loras = RegionLoras(self.spec, self._host, lambda sentence: self._note(p, sentence))
            except LoraclrError as error:
                self._note(p, f"LoRAs of single regions are left out: {error.message}")
                loras = None
            self._loras = unet, loras
        return self._loras[1]

    def _take_parts(self, p: Any, prompts: list[str], *, hires: bool) -> None:
        """Divide every prompt in place, and keep what belongs to regions."""
        kept: list[list[str]] = []
        for index, prompt in enumerate(prompts):
            try:
                prompts[index], texts = split_prompt_text(prompt, self.spec.separator)
            except InputError as error:
                texts = []
                self._note(p, error.message)
            if texts and len(texts) != len(self.spec.active()):
                self._note(p, f"The prompt has {len(texts)} parts for {len(self.spec.active())} regions.")
            kept.append([prompts[index], *texts])
        self._parts[hires] = kept

    def _spec_of(self, picture: int, hires: bool) -> RegionalSpec:
        """The spec with the prompts of one picture: in text mode those that stood in its prompt.

        A region without a part of the prompt says what the picture says.
        """
        parts = self._parts.get(hires)
        if parts is None:
            return self.spec
        own, *given = parts[picture]
        texts = iter(given)
        regions = tuple(
            replace(region, prompt=next(texts, own)) if region.on else region for region in self.spec.regions
        )
        return replace(self.spec, regions=regions)

    def _share_tags_with_hires(self, p: Any) -> None:
        data = getattr(p, "hr_extra_network_data", None)
        if not self._tags or not getattr(p, "enable_hr", False) or data is None:
            return
        for kind, used in self._host.parse_tags(" ".join(self._tags)).items():
            known = [one.items for one in data[kind]]
            data[kind].extend(one for one in used if one.items not in known)

    def _note(self, p: Any, sentence: str) -> None:
        if sentence in self._notes:
            return
        self._notes.append(sentence)
        tell(p, self._notes)


def tell(p: Any, notes: Sequence[str]) -> None:
    """Say it below the picture and in its infotext."""
    p.extra_generation_params[KEY_NOTES] = " ".join(notes)
    if hasattr(p, "comment"):
        p.comment(f"Regional: {notes[-1]}")


def session_of(p: Any) -> RegionalSession | None:
    """The session of a processing object."""
    return getattr(p, ATTRIBUTE, None)


def without_tags(spec: RegionalSpec) -> tuple[RegionalSpec, list[str]]:
    """The spec without extra-network tags in its active regions' prompts, and the tags, each once."""
    tags = list(dict.fromkeys(tag for region in spec.active() for tag in TAG.findall(region.prompt)))
    if not tags:
        return spec, []
    regions = tuple(replace(region, prompt=TAG.sub("", region.prompt).strip()) for region in spec.regions)
    return replace(spec, regions=regions), tags
