"""Pictures from a prompt with LoRA tags, through the host's own sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lib_loraclr.capture import inject
from lib_loraclr.core.deltas import Delta, add
from lib_loraclr.core.errors import InputError
from lib_loraclr.formats import read_lora, recipe_of
from lib_loraclr.formats.lora_file import FileWarning
from lib_loraclr.formats.output import all_or_nothing, check_job_output, write_bytes
from lib_loraclr.formats.weighted import check_families, find_lora, host_shapes, weighted_deltas
from lib_loraclr.generation.pictures import contact_sheet, infotext, png, to_images
from lib_loraclr.generation.prompt_tags import LoraTag, split_prompt
from lib_loraclr.model import DiffusionHost, Phase, Progress, SampleRequest
from lib_loraclr.opening import HostOpener, resolve_device
from lib_loraclr.regional import Region, RegionalSpec, dump_spec
from lib_loraclr.regional.lora import RegionalRequest
from lib_loraclr.timing import Stopwatch

BATCH_PIXELS = 4 * 512 * 512  # pictures sampled side by side hold about this many pixels
SAMPLER = "ddim"


@dataclass(frozen=True)
class GenerateOptions:
    """`size` None is the model's own; picture k has seed `seed + k`; `out` is numbered when there are several."""

    prompt: str
    out: Path
    checkpoint: Path | None = None
    negative: str = ""
    seed: int = 0
    steps: int = 20
    cfg: float = 7.0
    size: tuple[int, int] | None = None
    count: int = 1
    grid: bool = False
    lora_dir: Path | None = None
    device: str = "auto"
    overwrite: bool = False
    regions: RegionalSpec | None = None


@dataclass(frozen=True)
class GenerateOutcome:
    """`files` are the pictures in order of their seeds, then the grid when there is one."""

    files: list[Path]
    seeds: list[int]
    seconds: float
    warnings: Sequence[FileWarning] = ()

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints; `out` is the first picture, or the grid."""
        return {
            "ok": True,
            "out": str(self.files[-1] if len(self.files) > len(self.seeds) else self.files[0]),
            "files": [str(path) for path in self.files],
            "seeds": self.seeds,
            "seconds": {"total": round(self.seconds, 3)},
            "warnings": [warning.as_dict() for warning in self.warnings],
        }


class Painter:
    """A loaded model that paints prompts with LoRA tags; files are read once. Use inside `host.ready()`."""

    def __init__(self, host: DiffusionHost, *, lora_dir: Path | None = None) -> None:
        self.host, self.lora_dir = host, lora_dir
        self.shapes = host_shapes(host)
        self.warnings: list[FileWarning] = []
        self._deltas: dict[LoraTag, Mapping[str, Delta]] = {}
        self._triggers: dict[str, str] = {}

    def paint(
        self,
        prompt: str | Sequence[str],
        seeds: Sequence[int],
        *,
        negative: str = "",
        steps: int = 20,
        cfg: float = 7.0,
        size: tuple[int, int] | None = None,
        progress: Progress | None = None,
        regions: RegionalSpec | None = None,
    ) -> Tensor:
        """One picture per seed, uint8 (n, h, w, 3). The prompt's LoRA tags act, stacked as in the WebUI.

        Several prompts, one per seed, must have the same tags; they are sampled side by side. A tag in a region's
        prompt acts on the whole picture, with a warning; a region's own `loras` act there only.
        """
        split = [split_prompt(text) for text in ([prompt] * len(seeds) if isinstance(prompt, str) else prompt)]
        texts, tags = [text for text, _ in split], split[0][1]
        if any(other != tags for _, other in split):
            raise InputError("bad-tag", "Prompts that are sampled side by side need the same LoRA tags.", key="prompt")
        spec, more = self._without_tags(regions, tags)
        tags = [*tags, *more]
        size = size or native_size(self.host)
        layers = self.host.layers()
        deltas = self._stacked(tags)
        request = SampleRequest(
            texts, list(seeds), steps, size, cfg, negative, SAMPLER, None if spec is None else self._regional(spec)
        )
        with inject({name: layers[name] for name in deltas}, deltas):
            latents = self.host.sample(request, progress)
        return self.host.decode(latents)

    def _without_tags(
        self, spec: RegionalSpec | None, tags: Sequence[LoraTag]
    ) -> tuple[RegionalSpec | None, list[LoraTag]]:
        """The spec with plain prompts, and the tags that stood in them and are not in `tags`."""
        if spec is None or not spec.active():
            return None, []
        more: list[LoraTag] = []
        plain: list[Region] = []
        for region in spec.active():
            text, found = split_prompt(region.prompt)
            plain.append(replace(region, prompt=text) if found else region)
            more += [tag for tag in found if tag not in tags and tag not in more]
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
        parts = [self._load(tag) for tag in tags]
        names = dict.fromkeys(name for part in parts for name in part)
        stacked: dict[str, Delta] = {}
        for name in names:
            present = [part[name] for part in parts if name in part]
            stacked[name] = present[0] if len(present) == 1 else add(present)
        return stacked

    def _load(self, tag: LoraTag) -> Mapping[str, Delta]:
        if tag not in self._deltas:
            lora = read_lora(find_lora(tag.file, self.lora_dir))
            check_families([lora], self.host.info.family)
            deltas, notes = weighted_deltas(lora, tag.weight, tag.te_weight, self.host.base_weight, self.shapes)
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


def native_size(host: DiffusionHost) -> tuple[int, int]:
    """(width, height) the model was trained on."""
    return host.info.native_size, host.info.native_size


def generate(options: GenerateOptions, *, open_host: HostOpener, progress: Progress) -> GenerateOutcome:
    """Make the pictures of `options`. Everything that can be wrong with it is checked before the model is loaded."""
    watch = Stopwatch()
    outputs, grid = _outputs(options)
    _check_loras(options)
    device = str(resolve_device(options.device))
    progress.phase(Phase.LOAD, 1)
    host = open_host(options.checkpoint, device)
    progress.step()
    seeds = [options.seed + k for k in range(options.count)]
    size = options.size or native_size(host)
    images: list[bytes] = []
    batch = max(1, BATCH_PIXELS // (size[0] * size[1]))
    with host.ready():
        painter = Painter(host, lora_dir=options.lora_dir)
        pictures: list[Any] = []
        for start in range(0, len(seeds), batch):
            chunk = seeds[start : start + batch]
            progress.phase(Phase.GENERATE, options.steps, f"{start + 1} to {start + len(chunk)} of {len(seeds)}")
            pixels = painter.paint(
                options.prompt,
                chunk,
                negative=options.negative,
                steps=options.steps,
                cfg=options.cfg,
                size=size,
                progress=progress,
                regions=options.regions,
            )
            pictures += to_images(pixels)
        for picture, seed in zip(pictures, seeds, strict=True):
            images.append(png(picture, _infotext(options, host, seed, size)))
        if grid is not None:
            images.append(png(contact_sheet(pictures), _infotext(options, host, seeds[0], size)))
    files = [*outputs, *([grid] if grid else [])]
    with all_or_nothing(*files):
        for path, data in zip(files, images, strict=True):
            write_bytes(path, data)
    return GenerateOutcome(files, seeds, watch.total, painter.warnings)


def _check_loras(options: GenerateOptions) -> None:
    """Every LoRA that is named anywhere is there, before a model is loaded."""
    regions = () if options.regions is None else options.regions.active()
    for prompt in (options.prompt, *(region.prompt for region in regions)):
        for tag in split_prompt(prompt)[1]:
            find_lora(tag.file, options.lora_dir)
    for region in regions:
        for lora in region.loras:
            find_lora(lora.name, options.lora_dir)


def _outputs(options: GenerateOptions) -> tuple[list[Path], Path | None]:
    if options.count < 1 or options.steps < 1:
        raise InputError("bad-option", "The number of pictures and of steps must be at least 1.", key="count")
    if options.size is not None and (min(options.size) < 8 or any(side % 8 for side in options.size)):
        raise InputError("bad-option", "Width and height must be multiples of 8.", key="size")
    out = options.out
    numbered = [out.with_name(f"{out.stem}-{k + 1}{out.suffix}") for k in range(options.count)]
    outputs = [out] if options.count == 1 else numbered
    grid = out.with_name(f"{out.stem}-grid{out.suffix}") if options.grid else None
    for path in [*outputs, *([grid] if grid else [])]:
        check_job_output(path, ".png", overwrite=options.overwrite)
    return outputs, grid


def _infotext(options: GenerateOptions, host: DiffusionHost, seed: int, size: tuple[int, int]) -> str:
    return infotext(
        options.prompt,
        options.negative,
        steps=options.steps,
        sampler="DDIM",
        cfg=options.cfg,
        seed=seed,
        size=size,
        model=host.info.name,
        sha=host.info.sha256,
        more={} if options.regions is None else {"Regional": dump_spec(options.regions)},
    )
