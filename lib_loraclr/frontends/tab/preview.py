"""A grid of pictures with one seed: each LoRA alone, all of them stacked in the prompt, and the merged file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lib_loraclr.capture.prompts import OTHERS, phrase
from lib_loraclr.core.errors import InputError
from lib_loraclr.generation.generator import BATCH_PIXELS, Painter, native_size
from lib_loraclr.generation.pictures import to_images
from lib_loraclr.html import picture_address
from lib_loraclr.model import DiffusionHost, Phase, Progress

COLUMNS = ("Alone", "All in the prompt", "Merged")
MOST_STEPS, MOST_CONCEPTS = 150, 24


@dataclass(frozen=True)
class Subject:
    """One row of the grid."""

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
    """What to paint; `template` holds {c} for the concept."""

    subjects: Sequence[Subject]
    merged: Path
    template: str = "a photo of {c}"
    seed: int = 0
    steps: int = 20
    cfg: float = 7.0

    def __post_init__(self) -> None:
        """Raises InputError for numbers that make no picture."""
        if not 1 <= self.steps <= MOST_STEPS:
            raise InputError("bad-option", f"The preview needs 1 to {MOST_STEPS} steps.", key="steps")
        if len(self.subjects) > MOST_CONCEPTS:
            raise InputError("bad-option", f"A preview grid shows at most {MOST_CONCEPTS} LoRAs.", key="lora")


@dataclass(frozen=True)
class Grid:
    """Finished pictures as data addresses: one row per subject, one column per entry of `COLUMNS`."""

    rows: Sequence[tuple[str, str, Sequence[str]]]  # name, prompt, pictures
    seed: int


def paint_grid(request: GridRequest, host: DiffusionHost, progress: Progress) -> Grid:
    """Paint everything with the host's own sampler; call it inside the application's job."""
    subjects = request.subjects
    prompts = [subject.prompt(request.template) for subject in subjects]
    with host.ready():
        size = native_size(host)
        batch = max(1, BATCH_PIXELS // (size[0] * size[1]))
        together = -(-len(subjects) // batch)
        progress.phase(Phase.GENERATE, request.steps * (len(subjects) + 2 * together))
        painter = Painter(host)

        def paint(texts: list[str]) -> list[str]:
            found: list[str] = []
            for first in range(0, len(texts), batch):
                part = texts[first : first + batch]
                seeds = [request.seed] * len(part)
                pixels = painter.paint(part, seeds, steps=request.steps, cfg=request.cfg, size=size, progress=progress)
                found += [address_of(image) for image in to_images(pixels)]
            return found

        alone = [paint([f"{subject.tag} {text}"])[0] for subject, text in zip(subjects, prompts, strict=True)]
        all_tags = "".join(subject.tag for subject in subjects)
        stacked = paint([f"{all_tags} {text}" for text in prompts])
        merged = paint([f"<lora:{request.merged}:1> {text}" for text in prompts])
    pictures = zip(alone, stacked, merged, strict=True)
    return Grid([(s.name, text, row) for s, text, row in zip(subjects, prompts, pictures, strict=True)], request.seed)


def address_of(image: Image.Image) -> str:
    """The picture as a data address: JPEG, lossless PNG where that is small anyway."""
    small = image.width * image.height <= 192 * 192
    return picture_address(image, "png" if small else "jpeg", quality=92)
