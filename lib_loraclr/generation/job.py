"""`generate`: pictures from a prompt with LoRA tags, as PNG files with the WebUI's parameters text."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from lib_loraclr.formats.lora_file import FileWarning
from lib_loraclr.formats.output import all_or_nothing, check_job_output, write_bytes
from lib_loraclr.formats.weighted import find_lora
from lib_loraclr.generation.generator import ImageGenerator, SamplingParams, split_prompt
from lib_loraclr.model import DiffusionHost, HostOpener, Phase, Progress, resolve_device
from lib_loraclr.options import check, option
from lib_loraclr.regional import RegionalSpec, dump_spec
from lib_loraclr.timing import Stopwatch


@dataclass(frozen=True)
class GenerateOptions:
    """Picture k has seed `seed + k`; `out` is numbered when there are several."""

    prompt: str
    out: Path
    checkpoint: Path | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    seed: int = option(0, "Of the first picture; the next ones count up.", metavar="S")
    count: int = option(1, "Number of pictures.", 1, metavar="N")
    grid: bool = option(False, "Also one picture of all of them, NAME-grid.png.")
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
    generator = ImageGenerator(host, lora_dir=options.lora_dir)
    with host.ready():
        steps = generator.steps(len(seeds), options.sampling)
        progress.phase(Phase.GENERATE, steps, str(len(seeds)))
        prompts = [options.prompt] * len(seeds)
        pixels = generator.generate(prompts, seeds, options.sampling, regions=options.regions, progress=progress)
    pictures = to_images(pixels)
    images = [png(picture, _infotext(options, host, seed)) for picture, seed in zip(pictures, seeds, strict=True)]
    if grid is not None:
        images.append(png(contact_sheet(pictures), _infotext(options, host, seeds[0])))
    files = [*outputs, *([grid] if grid else [])]
    with all_or_nothing(*files):
        for path, data in zip(files, images, strict=True):
            write_bytes(path, data)
    return GenerateOutcome(files, seeds, watch.total, generator.warnings)


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
    check(options)
    check(options.sampling)
    out = options.out
    numbered = [out.with_name(f"{out.stem}-{k + 1}{out.suffix}") for k in range(options.count)]
    outputs = [out] if options.count == 1 else numbered
    grid = out.with_name(f"{out.stem}-grid{out.suffix}") if options.grid else None
    for path in [*outputs, *([grid] if grid else [])]:
        check_job_output(path, ".png", overwrite=options.overwrite)
    return outputs, grid


def _infotext(options: GenerateOptions, host: DiffusionHost, seed: int) -> str:
    """The three lines that the WebUI writes and parses."""
    sampling, info = options.sampling, host.info
    width, height = sampling.size_on(host)
    lines = [options.prompt, *([f"Negative prompt: {sampling.negative_prompt}"] if sampling.negative_prompt else [])]
    facts = f"Steps: {sampling.steps}, Sampler: {sampling.sampler.upper()}, CFG scale: {sampling.cfg_scale:g}"
    facts += f", Seed: {seed}, Size: {width}x{height}, Model hash: {info.sha256[:10]}, Model: {_quoted(info.name)}"
    if options.regions is not None:
        facts += f", Regional: {_quoted(dump_spec(options.regions))}"
    return "\n".join([*lines, facts])


def _quoted(text: str) -> str:
    """As the WebUI writes values that would break its line: as a JSON text."""
    return json.dumps(text, ensure_ascii=False) if any(letter in text for letter in ",:\n") else text


def to_images(pixels: Tensor) -> list[Image.Image]:
    """uint8 (n, h, w, 3) to pictures."""
    return [Image.fromarray(picture.numpy()) for picture in pixels]


def png(image: Image.Image, parameters: str) -> bytes:
    """PNG bytes with the text chunk `parameters` that the WebUI's PNG info reads."""
    info = PngInfo()
    info.add_itxt("parameters", parameters) if not parameters.isascii() else info.add_text("parameters", parameters)
    stream = io.BytesIO()
    image.save(stream, "PNG", pnginfo=info)
    return stream.getvalue()


def contact_sheet(images: Sequence[Image.Image], *, gap: int = 4) -> Image.Image:
    """All pictures in a grid that is nearly square, in reading order."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width, height = images[0].size
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), (128, 128, 128))
    for index, image in enumerate(images):
        sheet.paste(image, ((index % columns) * (width + gap), (index // columns) * (height + gap)))
    return sheet
