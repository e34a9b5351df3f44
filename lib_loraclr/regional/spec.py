"""The regional spec, version 1: one immutable value that is panel state, API argument, infotext and preset.

`parse.py` reads it from JSON, `write.py` writes it. Times are shares of the sampling run, 0 the first step, 1 the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lib_loraclr.regional.rules import flag, number, part, span, text, whole
from lib_loraclr.regional.shapes import Shape

VERSION = 1
MAX_REGIONS = 64
SUBJECTS_SOLO = 0.4  # what `iso.solo` begins with where every region is a subject; measured by benchmarks/regional.py
MODES = ("fields", "text")
RASTERS = ("coverage", "grow", "mix-of-show")
OVERLAPS = ("average", "weighted", "top")
NEGATIVE_MODES = ("append", "replace", "inherit")
BASE_NEGATIVES = ("inherit", "empty")
SEPARATORS = ("auto", "BREAK", "AND", "line")


def _no_extra() -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class RegionLora:
    """A LoRA that acts inside one region only."""

    name: str = text("name", "", "file name of the LoRA, as in <lora:NAME:1>")
    te: float = number("te", 1.0, "its weight in the text encoder", -10.0, 10.0)
    unet: float = number("unet", 1.0, "its weight in the picture model", -10.0, 10.0)


@dataclass(frozen=True)
class Region:
    """One subject: where, what, how strongly and when."""

    shape: Shape
    prompt: str = text("prompt", "", "what stands here")
    negative: str = text("neg", "", "what must not stand here")
    negative_mode: str = text(
        "negmode", "append", "how the region's negative joins the picture's: added to it, in its place, or not at all",
        NEGATIVE_MODES,
    )  # fmt: skip
    id: str = text("id", "", "a name for programs, unique in the spec")
    name: str = text("name", "", "a name for people")
    on: bool = flag("on", True, "false leaves the region out")
    z: int = whole("z", 0, "stacking order; the highest is on top", -1000, 1000)
    weight: float = number("w", 1.0, "share against other regions where they overlap", 0.0, 10.0)
    strength: float = number("rho", 1.0, "how far the region's prompt replaces the picture's")
    feather: float | None = number(
        "feather", None, "width of the soft edge as a share of the shorter side; null: the spec's", 0.0, 0.5,
        optional=True,
    )  # fmt: skip
    steps: tuple[float, float] = span("steps", "when the region acts, as shares of the sampling run")
    cfg: float | None = number("cfg", None, "its own CFG scale; null: the picture's", 0.0, 100.0, optional=True)
    isolate: bool = flag("iso", True, "whether isolation is for this region too")
    concept: str = text("concept", "", "concept of a merged file that stands here")
    loras: tuple[RegionLora, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=_no_extra)  # unknown keys, kept as they came


@dataclass(frozen=True)
class BaseRules:
    """What the picture's own prompt does inside regions."""

    floor: float = number("in_regions", 0.0, "share of the picture's prompt that every region keeps")
    prepend: bool = flag("prepend", False, "put the picture's prompt before every region's")
    negative: str = text(
        "neg", "inherit", "negative of a region that has none: the picture's, or empty", BASE_NEGATIVES
    )
    extra: Mapping[str, Any] = field(default_factory=_no_extra)


@dataclass(frozen=True)
class Isolation:
    """How far the regions' own pixels look away from each other in self-attention, and whether they start apart."""

    strength: float = number("s", 0.0, "0: not at all; 1: subjects do not see each other; 0.5 is a good start")
    start: float = number("start", 0.0, "first share of the sampling run")
    end: float = number("end", 0.4, "last share of the sampling run")
    smallest: int = whole("min", 8, "layers whose shorter side has fewer cells are left alone", 1, 1024)
    solo: float = number(
        "solo", 0.0, "in this first share of the sampling run every subject is a picture of its own; 0: never"
    )
    extra: Mapping[str, Any] = field(default_factory=_no_extra)


@dataclass(frozen=True)
class Hires:
    """Regions in the high-resolution pass."""

    on: bool = flag("on", True, "whether regions act in the high-resolution pass")
    strength: float = number("strength", 1.0, "factor on every region's strength there")
    isolate: bool = flag("isolate", True, "whether isolation acts there")
    suffix: str = text("prompt_suffix", "", "text added to every region's prompt there")
    extra: Mapping[str, Any] = field(default_factory=_no_extra)


@dataclass(frozen=True)
class RegionalSpec:
    """A whole layout. An empty one, or one whose regions are all off, leaves the picture exactly as it is."""

    regions: tuple[Region, ...] = ()
    mode: str = text("mode", "fields", "where region prompts are: in their own fields, or in the prompt", MODES)
    separator: str = text("sep", "auto", "what separates regions in the prompt in text mode", SEPARATORS)
    raster: str = text(
        "raster", "coverage", "how shapes become cells: by covered area, the same but small regions grow to a cell, or "
        "hard boxes as in Mix-of-Show", RASTERS,
    )  # fmt: skip
    overlap: str = text(
        "overlap", "average", "where regions overlap: equal shares, shares by weight, or only the top one", OVERLAPS
    )
    base: BaseRules = field(
        default_factory=BaseRules, metadata=part("base", BaseRules, "the picture's own prompt inside regions")
    )
    feather: float = number("feather", 0.02, "width of soft edges as a share of the shorter side", 0.0, 0.5)
    isolation: Isolation = field(
        default_factory=Isolation, metadata=part("iso", Isolation, "isolation of the regions from each other")
    )
    pooled: bool = flag("pooled", True, "SDXL: every region has its own pooled text vector")
    steps: tuple[float, float] = span("steps", "when regions act at all, as shares of the sampling run")
    hires: Hires = field(default_factory=Hires, metadata=part("hires", Hires, "the high-resolution pass"))
    extra: Mapping[str, Any] = field(default_factory=_no_extra)

    def active(self) -> tuple[Region, ...]:
        """The regions that are on, in their order."""
        return tuple(region for region in self.regions if region.on)
