"""The sampling loop: prompts with LoRA tags, or plain prompts under a set of deltas, become pictures.

Everything that makes pictures goes through it: the command `generate`, the evaluation, the tab's preview, the demo and
the benchmarks. Pictures are sampled side by side in batches; a seed draws the same noise in every batch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from lib_loraclr.capture import inject
from lib_loraclr.core.deltas import Delta, LayerShape, stack
from lib_loraclr.core.errors import InputError
from lib_loraclr.formats import read_lora, recipe_of
from lib_loraclr.formats.lora_file import FileWarning
from lib_loraclr.formats.weighted import check_families, find_lora, host_shapes, weighted_deltas
from lib_loraclr.model import DiffusionHost, Progress, SampleRequest
from lib_loraclr.options import option
from lib_loraclr.regional import Region, RegionalSpec
from lib_loraclr.regional.lora import RegionalRequest

BATCH_PIXELS = 4 * 512 * 512  # a batch holds about this many pixels
MOST_IN_A_BATCH = 32


@dataclass(frozen=True)
class SamplingParams:
    """How pictures are sampled, in the names of SampleRequest.

    `size` is (width, height) in pixels, None the model's own; `batch_size` 0 is as many pictures as have about the
    pixels of four pictures of 512 x 512, at most 32.
    """

    steps: int = option(20, "Sampling steps; more is slower and finer.", 1, metavar="N")
    cfg_scale: float = option(7.0, "How strictly the prompt is followed.", metavar="X", aliases=("cfg",))
    size: tuple[int, int] | None = option(
        None, "Pixels, multiples of 8; native: what the model was trained on.", kind="size", metavar="WxH"
    )
    negative_prompt: str = option("", "What the pictures should not show.", metavar="TEXT", aliases=("negative",))
    sampler: str = option("ddim", "Of the host.")
    batch_size: int = option(0, "Pictures side by side; 0: as many as suit the size.", 0)

    def size_on(self, host: DiffusionHost) -> tuple[int, int]:
        """(width, height) of the pictures that a model makes."""
        return self.size or (host.info.native_size, host.info.native_size)

    def batch_on(self, host: DiffusionHost) -> int:
        """Pictures that a model samples side by side."""
        width, height = self.size_on(host)
        return self.batch_size or max(1, min(MOST_IN_A_BATCH, BATCH_PIXELS // (width * height)))


class ImageGenerator:
    """Makes pictures with a loaded model; LoRA files are read once. Use it inside `host.ready()`.

    `warnings` collects what was noticed about the files and tags so far. Names in tags are looked up in `lora_dir`.
    """

    def __init__(self, host: DiffusionHost, *, lora_dir: Path | None = None) -> None:
        self.host, self.lora_dir = host, lora_dir
        self.warnings: list[FileWarning] = []
        self._deltas: dict[LoraTag, Mapping[str, Delta]] = {}
        self._triggers: dict[str, str] = {}

    def steps(self, pictures: int, params: SamplingParams) -> int:
        """Progress steps that so many pictures of one call take."""
        return -(-pictures // params.batch_on(self.host)) * params.steps

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        params: SamplingParams,
        *,
        regions: RegionalSpec | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """One picture per prompt and seed, uint8 (n, h, w, 3), while the LoRA tags of the prompts act.

        All prompts need the same tags, which are stacked as in the WebUI. A tag in a region's prompt acts on the whole
        picture, with a warning; a region's own `loras` act there only. Raises InputError.
        """
        split = [split_prompt(prompt) for prompt in prompts]
        texts, tags = [text for text, _ in split], split[0][1] if split else []
        if any(others != tags for _, others in split):
            raise InputError("bad-tag", "Prompts that are sampled side by side need the same LoRA tags.", key="prompt")
        spec, region_tags = self._without_tags(regions, tags)
        deltas = self._stacked([*tags, *region_tags])
        request = None if spec is None else self._regional(spec)
        return self.sample(deltas, texts, seeds, params, regions=request, progress=progress)

    def sample(
        self,
        deltas: Mapping[str, Delta],
        prompts: Sequence[str],
        seeds: Sequence[int],
        params: SamplingParams,
        *,
        regions: RegionalRequest | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """One picture per plain prompt and seed, uint8 (n, h, w, 3), while `deltas` act; n may be 0."""
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds")
        (width, height), batch, layers = params.size_on(self.host), params.batch_on(self.host), self.host.layers()
        pictures = [torch.zeros(0, height, width, 3, dtype=torch.uint8)]
        with inject({name: layers[name] for name in deltas}, deltas):
            for first in range(0, len(prompts), batch):
                part = slice(first, first + batch)
                request = SampleRequest(
                    list(prompts[part]), list(seeds[part]), params.steps, (width, height), params.cfg_scale,
                    params.negative_prompt, params.sampler, regions,
                )  # fmt: skip
                pictures.append(self.host.decode(self.host.sample(request, progress)))
        return torch.cat(pictures)

    def _without_tags(
        self, spec: RegionalSpec | None, tags: Sequence[LoraTag]
    ) -> tuple[RegionalSpec | None, list[LoraTag]]:
        """The spec with plain prompts, and the tags that stood in them and are not in `tags`."""
        if spec is None or not spec.active():
            return None, []
        more: list[LoraTag] = []
        plain: list[Region] = []
        for region in spec.active():
            text, region_tags = split_prompt(region.prompt)
            plain.append(replace(region, prompt=text) if region_tags else region)
            more += [tag for tag in region_tags if tag not in tags and tag not in more]
        if more:
            names = ", ".join(tag.file for tag in more)
            message = f"{names} stands in a region's prompt but acts on the whole picture."
            warning = FileWarning("region-tag", message)
            self.warnings += [] if warning in self.warnings else [warning]
        return replace(spec, regions=tuple(plain)), more

    def _regional(self, spec: RegionalSpec) -> RegionalRequest:
        """The request of a spec without tags; every region's own LoRAs are read and stacked."""
        deltas = [
            self._stacked([LoraTag(lora.name, lora.unet, lora.te) for lora in region.loras])
            for region in spec.regions
        ]  # fmt: skip
        return RegionalRequest(spec, deltas, dict(self._triggers))

    def _stacked(self, tags: Sequence[LoraTag]) -> Mapping[str, Delta]:
        return stack([self._load(tag) for tag in tags])

    @cached_property
    def _shapes(self) -> Mapping[str, LayerShape]:
        return host_shapes(self.host)

    def _load(self, tag: LoraTag) -> Mapping[str, Delta]:
        if tag not in self._deltas:
            lora = read_lora(find_lora(tag.file, self.lora_dir))
            check_families([lora], self.host.info.family)
            deltas, notes = weighted_deltas(lora, tag.weight, tag.te_weight, self.host.base_weight, self._shapes)
            self.warnings += [*lora.warnings, *notes]
            self._deltas[tag] = deltas
            self._triggers.update(_concepts(lora.metadata))
        return self._deltas[tag]


def _concepts(metadata: Mapping[str, str]) -> dict[str, str]:
    """Concept -> trigger of a merged file, from its recipe; empty for other files."""
    recipe = recipe_of(metadata) or {}
    return {
        str(entry["name"]): str(entry["trigger"])
        for entry in recipe.get("inputs", ())
        if entry.get("name") and entry.get("trigger")
    }


TAG = re.compile(r"<lora:([^<>]+)>")


@dataclass(frozen=True)
class LoraTag:
    """One tag: the file's path or name, and the weights of UNet and text encoder."""

    file: str
    weight: float = 1.0
    te_weight: float = 1.0


def split_prompt(prompt: str) -> tuple[str, list[LoraTag]]:
    """The prompt without its tags, and the tags in order. Raises InputError for a tag that names no file."""
    tags = [parse_tag(match.group(1)) for match in TAG.finditer(prompt)]
    return re.sub(r"\s+", " ", TAG.sub("", prompt)).strip(), tags


def parse_tag(inner: str) -> LoraTag:
    """What stands between `<lora:` and `>`: `FILE[:TE[:UNET]][:te=…][:unet=…]`; one number is for both.

    Fields are taken from the right while they are weights, so that a path may hold colons.
    """
    fields = inner.split(":")
    positional: list[float] = []
    named: dict[str, float] = {}
    while len(fields) > 1:
        name, equals, value = fields[-1].rpartition("=")
        if equals and name not in ("te", "unet"):
            break
        try:
            number = float(value)
        except ValueError:
            break
        if not math.isfinite(number):
            break
        if equals:
            named.setdefault(name, number)
        else:
            positional.insert(0, number)
        fields.pop()
    file = ":".join(fields).strip()
    if not file or len(positional) > 2:
        raise InputError("bad-tag", f"<lora:{inner}> is not <lora:FILE:WEIGHT>.", key="prompt")
    te_weight = named.get("te", positional[0] if positional else 1.0)
    weight = named.get("unet", positional[1] if len(positional) > 1 else te_weight)
    return LoraTag(file, weight, te_weight)
