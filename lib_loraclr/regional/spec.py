"""The regional spec, version 1: one immutable value that is panel state, API argument, infotext and preset.

`parse.py` reads it from JSON, `write.py` writes it. Times are shares of the sampling run, 0 the first step, 1 the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lib_loraclr.options import option
from lib_loraclr.regional.shapes import Shape

VERSION = 1
MAX_REGIONS = 64
MAX_TEXT = 20_000
# what `isolation.separate_until` begins with where every region is a subject; measured by benchmarks/regional.py
SUBJECTS_SEPARATE_UNTIL = 0.4
# groups of the panel
BLENDING, MAIN_PROMPT, ISOLATION, HIRES = "Blending", "Main prompt", "Isolation", "Hires fix"
# allowed texts, and what the panel calls them
MODES = {"fields": "in their own fields", "text": "parts of the main prompt"}
RASTERS = {
    "coverage": "exact share of each cell",
    "grow": "small regions grow to a cell",
    "mix-of-show": "hard boxes, as Mix-of-Show",
}
OVERLAPS = {"average": "equal shares", "weighted": "shares by weight", "top": "the topmost wins"}
NEGATIVE_MODES = {"append": "added to the main one", "replace": "in its place", "inherit": "left out"}
BASE_NEGATIVES = {"inherit": "use the main one", "empty": "use none"}
SEPARATORS = {"auto": "whatever is found", "BREAK": "BREAK, ADDCOL, ADDROW …", "AND": "AND", "line": "line breaks"}


def _no_extra() -> Mapping[str, Any]:
    return {}


def text(default: str, help: str, **more: Any) -> Any:  # noqa: A002
    """Text."""
    return option(default, help, None, MAX_TEXT, **more)


def share(default: float, help: str, **more: Any) -> Any:  # noqa: A002
    """A number from 0 to 1."""
    return option(default, help, 0.0, 1.0, **more)


def span(help: str, **more: Any) -> Any:  # noqa: A002
    """Two shares of the sampling run, first and last."""
    return option((0.0, 1.0), help, 0.0, 1.0, kind="span", **more)


@dataclass(frozen=True)
class RegionLora:
    """A LoRA that acts inside one region only."""

    name: str = text("", "File name of the LoRA, as in <lora:NAME:1>.")
    te: float = option(1.0, "Its weight in the text encoder.", -10.0, 10.0)
    unet: float = option(1.0, "Its weight in the picture model.", -10.0, 10.0)


@dataclass(frozen=True)
class Region:
    """One subject: where, what, how strongly and when. Fields with a title are on its card in the panel, in order."""

    shape: Shape
    prompt: str = text("", "What stands here.")
    negative: str = text(
        "",
        "What must not stand here.",
        title="Negative prompt",
        aliases=("neg",),
        form={"kind": "long", "empty": "What must not stand here"},
    )
    negative_mode: str = text(
        "append", "How the region's negative joins the picture's: added to it, in its place, or not at all.",
        title="Negative is", choices=NEGATIVE_MODES, aliases=("negmode",),
    )  # fmt: skip
    id: str = text("", "A name for programs, unique in the layout.")
    name: str = text("", "A name for people.")
    on: bool = option(True, "False leaves the region out.")
    order: int = option(0, "Stacking order; the highest is on top.", -1000, 1000, aliases=("z",))
    strength: float = share(
        1.0, "How far the region's prompt replaces the picture's.", title="Strength", aliases=("rho",)
    )
    weight: float = option(
        1.0,
        "Share against other regions where they overlap.",
        0.0,
        10.0,
        title="Share in overlaps",
        aliases=("w",),
        form={"soft": 3.0, "step": 0.05},
    )
    feather: float | None = option(
        None, "Width of the soft edge as a share of the shorter side; null: the layout's.", 0.0, 0.5, kind="number",
        optional=True, title="Soft edge", form={"soft": 0.25, "step": 0.005, "empty": "auto"},
    )  # fmt: skip
    cfg: float | None = option(
        None, "Its own CFG scale; null: the picture's.", 0.0, 100.0, kind="number", optional=True, title="CFG scale",
        form={"soft": 15.0, "step": 0.5, "empty": "main", "shown": 7.0},
    )  # fmt: skip
    steps: tuple[float, float] = span("When the region acts, as shares of the sampling run.", title="Acts from, to")
    isolate: bool = option(
        True, "Whether isolation is for this region too.", title="Isolated from the others", aliases=("iso",)
    )
    concept: str = text("", "Concept of a merged file that stands here.")
    loras: tuple[RegionLora, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=_no_extra)  # unknown keys, kept as they came


@dataclass(frozen=True)
class BaseRules:
    """What the picture's own prompt does inside regions."""

    in_regions: float = share(
        0.0,
        "Share of the picture's prompt that every region keeps.",
        group=MAIN_PROMPT,
        title="Its share inside regions",
    )
    prepend: bool = option(
        False,
        "Put the picture's prompt before every region's.",
        group=MAIN_PROMPT,
        title="Put it before every region's prompt",
    )
    negative: str = text(
        "inherit", "Negative of a region that has none: the picture's, or empty.", group=MAIN_PROMPT,
        title="Regions without a negative", choices=BASE_NEGATIVES, aliases=("neg",),
    )  # fmt: skip
    extra: Mapping[str, Any] = field(default_factory=_no_extra)


@dataclass(frozen=True)
class Isolation:
    """How far the regions' own pixels look away from each other in self-attention, and whether they start apart."""

    strength: float = share(
        0.0,
        "0: not at all; 1: subjects do not see each other; 0.5 is a good start.",
        group=ISOLATION,
        title="Strength",
        aliases=("s",),
    )
    start: float = share(0.0, "First share of the sampling run.", group=ISOLATION, title="From")
    end: float = share(0.4, "Last share of the sampling run.", group=ISOLATION, title="To")
    min_cells: int = option(
        8, "Layers whose shorter side has fewer cells are left alone.", 1, 1024, group=ISOLATION,
        title="Smallest layer, cells", aliases=("min",), form={"soft": 64},
    )  # fmt: skip
    separate_until: float = share(
        0.0, "In this first share of the sampling run every subject is denoised as a picture of its own; 0: never.",
        group=ISOLATION, title="Separate denoising until", aliases=("solo",),
    )  # fmt: skip
    extra: Mapping[str, Any] = field(default_factory=_no_extra)


@dataclass(frozen=True)
class Hires:
    """Regions in the high-resolution pass."""

    on: bool = option(
        True, "Whether regions act in the high-resolution pass.", group=HIRES, title="Regions act in the second pass"
    )
    strength: float = share(1.0, "Factor on every region's strength there.", group=HIRES, title="Strength there")
    isolate: bool = option(True, "Whether isolation acts there.", group=HIRES, title="Isolation there")
    prompt_suffix: str = text(
        "", "Text added to every region's prompt there.", group=HIRES, title="Added to region prompts"
    )
    extra: Mapping[str, Any] = field(default_factory=_no_extra)


@dataclass(frozen=True)
class RegionalSpec:
    """A whole layout. An empty one, or one whose regions are all off, leaves the picture exactly as it is.

    Fields with a group are in the panel, in this order.
    """

    regions: tuple[Region, ...] = ()
    overlap: str = text(
        "average", "Where regions overlap: equal shares, shares by weight, or only the top one.", group=BLENDING,
        title="Where regions overlap", choices=OVERLAPS,
    )  # fmt: skip
    feather: float = option(
        0.02,
        "Width of soft edges as a share of the shorter side.",
        0.0,
        0.5,
        group=BLENDING,
        title="Soft edges",
        form={"soft": 0.25, "step": 0.005},
    )
    raster: str = text(
        "coverage", "How shapes become cells: by covered area, the same but small regions grow to a cell, or hard "
        "boxes as in Mix-of-Show.", group=BLENDING, title="Small layers", choices=RASTERS,
    )  # fmt: skip
    steps: tuple[float, float] = span(
        "When regions act at all, as shares of the sampling run.", group=BLENDING, title="Regions act from, to"
    )
    base: BaseRules = option(None, "The picture's own prompt inside regions.", part=BaseRules)
    mode: str = text(
        "fields",
        "Where region prompts are: in their own fields, or in the prompt.",
        group=MAIN_PROMPT,
        title="Region prompts are",
        choices=MODES,
    )
    separator: str = text(
        "auto",
        "What separates regions in the prompt in text mode.",
        group=MAIN_PROMPT,
        title="Parts are divided by",
        choices=SEPARATORS,
        aliases=("sep",),
    )
    isolation: Isolation = option(None, "Isolation of the regions from each other.", part=Isolation, aliases=("iso",))
    pooled: bool = option(
        True,
        "SDXL: every region has its own pooled text vector.",
        group=ISOLATION,
        title="SDXL: own pooled vector for every region",
    )
    hires: Hires = option(None, "The high-resolution pass.", part=Hires)
    extra: Mapping[str, Any] = field(default_factory=_no_extra)

    def active(self) -> tuple[Region, ...]:
        """The regions that are on, in their order."""
        return tuple(region for region in self.regions if region.on)
