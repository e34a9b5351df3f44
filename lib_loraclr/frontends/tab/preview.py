"""A grid of pictures with one seed: each LoRA alone, all of them stacked in the prompt, and the merged file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from lib_loraclr.capture.prompts import OTHERS, phrase
from lib_loraclr.core.errors import InputError
from lib_loraclr.generation.generator import ImageGenerator, SamplingParams
from lib_loraclr.generation.job import to_images
from lib_loraclr.html import picture_address
from lib_loraclr.model import DiffusionHost, Phase, Progress

COLUMNS = ("Alone", "All in the prompt", "Merged")
MOST_STEPS, MOST_CONCEPTS = 150, 24


@dataclass(frozen=True)
class GridConcept:
    """One row of the grid: a LoRA of the merge, and what calls it in a prompt."""

    name: str
    path: Path
    weight: float
    te_weight: float
    trigger: str
    class_word: str
    kind: str

    @property
    def tag(self) -> str:
        """The LoRA alone, as a prompt's tag that names the file."""
        return f"<lora:{self.path}:{self.te_weight:g}:{self.weight:g}>"

    def prompt(self, template: str) -> str:
        """The template with this concept in it; a style is put on something else."""
        called = phrase(self.trigger, self.class_word)
        if "{c}" not in template:
            return f"{template} {called}".strip()
        other = OTHERS[1]
        shown = f"{other} in {called}" if self.kind == "style" and called else called or other
        return template.replace("{c}", shown).replace("{other}", OTHERS[0])


@dataclass(frozen=True)
class GridRequest:
    """Which pictures to make; `template` holds {c} for the concept."""

    concepts: Sequence[GridConcept]
    merged: Path
    template: str = "a photo of {c}"
    seed: int = 0
    sampling: SamplingParams = field(default_factory=SamplingParams)

    def __post_init__(self) -> None:
        """Raises InputError for numbers that make no picture."""
        if not 1 <= self.sampling.steps <= MOST_STEPS:
            raise InputError("bad-option", f"The preview needs 1 to {MOST_STEPS} steps.", key="steps")
        if len(self.concepts) > MOST_CONCEPTS:
            raise InputError("bad-option", f"A preview grid shows at most {MOST_CONCEPTS} LoRAs.", key="lora")


@dataclass(frozen=True)
class Grid:
    """Finished pictures as data addresses: one row per concept, one column per entry of `COLUMNS`."""

    rows: Sequence[tuple[str, str, Sequence[str]]]  # name, prompt, pictures
    seed: int


def generate_grid(request: GridRequest, host: DiffusionHost, progress: Progress) -> Grid:
    """Make all pictures with the host's own sampler; call it inside the application's job."""
    concepts, sampling = request.concepts, request.sampling
    prompts = [concept.prompt(request.template) for concept in concepts]
    all_tags = "".join(concept.tag for concept in concepts)
    generator = ImageGenerator(host)

    def pictures(texts: list[str]) -> list[str]:
        pixels = generator.generate(texts, [request.seed] * len(texts), sampling, progress=progress)
        return [address_of(image) for image in to_images(pixels)]

    with host.ready():
        steps = len(concepts) * generator.steps(1, sampling) + 2 * generator.steps(len(concepts), sampling)
        progress.phase(Phase.GENERATE, steps)
        alone = [pictures([f"{concept.tag} {text}"])[0] for concept, text in zip(concepts, prompts, strict=True)]
        stacked = pictures([f"{all_tags} {text}" for text in prompts])
        merged = pictures([f"<lora:{request.merged}:1> {text}" for text in prompts])
    columns = zip(alone, stacked, merged, strict=True)
    return Grid([(c.name, text, row) for c, text, row in zip(concepts, prompts, columns, strict=True)], request.seed)


def address_of(image: Image.Image) -> str:
    """The picture as a data address: JPEG, lossless PNG where that is small anyway."""
    small = image.width * image.height <= 192 * 192
    return picture_address(image, "png" if small else "jpeg", quality=92)
