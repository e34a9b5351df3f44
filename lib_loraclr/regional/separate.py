"""Separate denoising: in the first steps every subject is denoised as a picture of its own, cut out of the canvas.

The UNet is asked once more for each crop, by its installed `forward`. While it is, the runtime of the canvas has no
call open, and a runtime of its own holds the one region over the whole crop: so a region's LoRAs, pooled vector,
negative and long text act as they do in any region. Where the crops leave nothing of the canvas, it is not asked.

Which part of the canvas is a subject's own picture, and how the answers for these parts are put together.

    out(i) = w_0(i) UNet(x, C)(i) + sum over r of w_r(i) UNet(x[crop r], C_r)(i)

with the layout's own weights. A crop is the box around the cells that belong to a region, grown to a size that the
UNet can halve as often as it does, and to no less than half the canvas's shorter side, because a model that was
trained on whole pictures knows nothing of smaller ones. The faint end of a soft edge may stay outside of the crop;
its weight goes to the crops that do reach there, and else to the canvas, so the weights add up to one as ever.
(Idea: MultiDiffusion, Bar-Tal et al. 2023, and Mixture of Diffusers, Jiménez 2023.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lib_loraclr.regional.conditions import BatchRow, RegionText
from lib_loraclr.regional.lora import RegionDeltas
from lib_loraclr.regional.shapes import Box
from lib_loraclr.regional.spec import RegionalSpec
from lib_loraclr.regional.weights import RegionWeights, base_weight

if TYPE_CHECKING:
    from lib_loraclr.regional.runtime import RegionalRuntime

OWN = 0.25  # share of a region's strongest cell from which on a cell is its own


@dataclass(frozen=True)
class Crop:
    """Cells [top, bottom) x [left, right) of the canvas, which are the picture of one region of the layout."""

    region: int
    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left

    def of(self, values: Tensor) -> Tensor:
        """This part of (..., height, width), a view."""
        return values[..., self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True, eq=False)
class Crops:
    """The crops of one moment: `weights[k]` (height, width) of crop k, zero outside of it, `rest` the canvas's own."""

    crops: tuple[Crop, ...]
    weights: Tensor
    rest: Tensor

    @property
    def covering(self) -> bool:
        """Whether nothing is left for the canvas's own answer."""
        return not bool(self.rest.any())


def wants_separate(region_weights: RegionWeights) -> bool:
    """Whether subjects of this layout ever are pictures of their own."""
    return region_weights.spec.isolation.separate_until > 0 and (
        region_weights.spec.hires.isolate or not region_weights.hires
    )


def separates(region_weights: RegionWeights, progress: float) -> bool:
    """Whether they are at this moment."""
    until = region_weights.spec.isolation.separate_until
    return wants_separate(region_weights) and (progress < until or until >= 1.0)


def crops_of(region_weights: RegionWeights, progress: float, reduction: int) -> Crops | None:
    """The crops of a canvas of the layout's size; None where no region has one that is smaller than the canvas.

    `reduction`: cells of the canvas, along one side, to a cell of the UNet's deepest layer.
    """
    if not separates(region_weights, progress):
        return None
    height, width = region_weights.height, region_weights.width
    shares, gates = region_weights.unscaled(height, width), region_weights.gates(progress)
    found = [
        _crop(number, shares[number], reduction)
        for number, region in enumerate(region_weights.regions)
        if region.isolate and gates[number] > 0 and bool(shares[number].any())
    ]
    crops = tuple(crop for crop in found if crop.size != (height, width))
    if not crops:
        return None
    weights = region_weights.at(height, width, progress)[[crop.region for crop in crops]]
    inside = torch.zeros_like(weights)
    for number, crop in enumerate(crops):
        crop.of(inside[number]).copy_(crop.of(weights[number]))
    kept, whole = inside.sum(0), weights.sum(0)
    inside = inside * torch.where(kept > 0, whole / kept.clamp(min=1e-12), torch.ones_like(kept))
    return Crops(crops, inside, base_weight(inside))


def _crop(region: int, shares: Tensor, reduction: int) -> Crop:
    own = shares >= OWN * shares.max()
    least = (min(shares.shape) + 1) // 2
    rows, columns = (
        _span(own.any(axis).nonzero().flatten().tolist(), shares.shape[1 - axis], reduction, least) for axis in (1, 0)
    )
    return Crop(region, *rows, *columns)


def _span(cells: list[int], side: int, reduction: int, least: int) -> tuple[int, int]:
    """First cell and end, around `cells` in order, of a multiple of `reduction`; the whole side where that is less."""
    used = cells[-1] + 1 - cells[0]
    length = -(-max(used, least) // reduction) * reduction
    if length >= side:
        return 0, side
    start = min(max(0, cells[0] - (length - used) // 2), side - length)
    return start, start + length


WHOLE = Box(0.0, 0.0, 1.0, 1.0)
LATENT_NAMES = ("x", "sample")
PACKAGE = __name__.partition(".")[0]
REPLACED = "Another extension takes part in the model's own call; subjects are not painted as pictures of their own."
SPATIAL = (
    "Something as large as the picture goes into the model, such as a ControlNet's hints; subjects are not painted as "
    "pictures of their own."
)


@dataclass(eq=False)
class _Turn:
    """One call of the UNet: what it was asked, and what is open while the first crop stands in for the canvas."""

    crops: Crops
    rows: Sequence[BatchRow]
    inputs: tuple[Any, ...]
    named: dict[str, Any]
    opened: ExitStack = field(default_factory=ExitStack)


class SeparateDenoising:
    """The hooks on the UNet itself, for the `runtime` of a canvas."""

    def __init__(self, runtime: RegionalRuntime) -> None:
        self.running: RegionalRuntime | None = None  # the runtime of the crop that is asked right now
        self._runtime = runtime
        self._loras: RegionDeltas | None = None
        self._turn: _Turn | None = None
        self._crops: dict[tuple[float, ...], Crops | None] = {}
        self._children: dict[Crop, tuple[RegionalRuntime, RegionDeltas | None]] = {}
        self._conditions: Sequence[Sequence[RegionText]] = ()
        self._texts: dict[int, list[list[RegionText]]] = {}

    def install(self, loras: RegionDeltas | None) -> list[RemovableHandle]:
        """Hook the UNet; nothing where the layout does not want it."""
        unet = self._runtime.sites.unet
        if unet is None or not wants_separate(self._runtime.region_weights):
            return []
        self._loras = loras
        return [
            unet.register_forward_pre_hook(self._before, with_kwargs=True),
            unet.register_forward_hook(self._after, with_kwargs=True),
        ]

    def abandon(self) -> None:
        """The call is over, or was broken off."""
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.opened.close()

    def forget(self) -> None:
        """The run is over."""
        self.abandon()
        self._loras, self._conditions = None, ()
        for cache in (self._crops, self._children, self._texts):
            cache.clear()

    def _before(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        rows, region_weights = self._runtime.rows, self._runtime.region_weights
        crops = None if rows is None else self._crops_now()
        if rows is None or crops is None:
            return None
        latents = _latents(inputs, named)
        if latents.shape[0] != len(rows) or tuple(latents.shape[-2:]) != (region_weights.height, region_weights.width):
            return None
        obstacle = _obstacle(module, [value for value in (*inputs, *named.values()) if value is not latents])
        if obstacle is not None:
            self._runtime.note(obstacle)
            return None
        turn = _Turn(crops, rows, inputs, named)
        if not crops.covering:
            self._turn = turn
            return None
        self._runtime.end_call()
        self._turn = turn
        turn.opened.enter_context(self._alone(crops.crops[0], rows))
        return _cut(crops.crops[0], inputs, named)

    def _after(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        turn, self._turn = self._turn, None
        if turn is None:
            return None
        turn.opened.close()
        self._runtime.end_call()
        answer, latents = _tensor(output), _latents(turn.inputs, turn.named)
        if turn.crops.covering:
            mixed = answer.new_zeros(*answer.shape[:-2], *latents.shape[-2:])
        else:
            mixed = answer * turn.crops.rest.to(answer)
        weights = turn.crops.weights.to(answer)
        for number, crop in enumerate(turn.crops.crops):
            if number > 0 or not turn.crops.covering:
                arguments, keywords = _cut(crop, turn.inputs, turn.named)
                with self._alone(crop, turn.rows):
                    answer = _tensor(module.forward(*arguments, **keywords))
            crop.of(mixed).add_(answer * crop.of(weights[number]))
        return _like(output, mixed)

    @contextmanager
    def _alone(self, crop: Crop, rows: Sequence[BatchRow]) -> Generator[None]:
        """Scope of one crop's call: the region over the whole of it, and no other."""
        child, loras = self._child(crop)
        texts = self._texts_of(crop.region)
        try:
            with child.installed(loras):
                child.begin_step(0.0, texts)
                with child.calling(rows):
                    self.running = child
                    yield
        finally:
            self.running = None
            for sentence in child.notes:
                self._runtime.note(sentence)

    def _child(self, crop: Crop) -> tuple[RegionalRuntime, RegionDeltas | None]:
        if crop not in self._children:
            spec, region = self._runtime.region_weights.spec, self._runtime.region_weights.regions[crop.region]
            alone = replace(region, shape=WHOLE, strength=1.0, feather=0.0, steps=(0.0, 1.0), cfg=None)
            region_weights = RegionWeights(RegionalSpec(regions=(alone,), pooled=spec.pooled), *crop.size)
            loras = self._loras
            if loras is not None:
                own = loras.deltas[crop.region]
                loras = RegionDeltas([own], loras.modules) if own else None
            self._children[crop] = type(self._runtime)(region_weights, self._runtime.sites), loras
        return self._children[crop]

    def _texts_of(self, region: int) -> list[list[RegionText]]:
        """Of every picture this region's text, the same object as long as the runtime's conditions are."""
        conditions = self._runtime.conditions
        if conditions is not self._conditions:
            self._conditions = conditions
            self._texts.clear()
        if region not in self._texts:
            self._texts[region] = [[texts[region]] for texts in conditions]
        return self._texts[region]

    def _crops_now(self) -> Crops | None:
        region_weights, progress = self._runtime.region_weights, self._runtime.progress
        key = (float(separates(region_weights, progress)), *region_weights.gates(progress))
        if key not in self._crops:
            self._crops[key] = crops_of(region_weights, progress, self._runtime.sites.reduction)
        return self._crops[key]


def _latents(inputs: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    return inputs[0] if inputs else next(named[name] for name in LATENT_NAMES if name in named)


def _cut(crop: Crop, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of the canvas's call with the crop's part of the latents."""
    if inputs:
        return (crop.of(inputs[0]).contiguous(), *inputs[1:]), named
    name = next(name for name in LATENT_NAMES if name in named)
    return (), {**named, name: crop.of(named[name]).contiguous()}


def _obstacle(unet: nn.Module, others: Sequence[Any]) -> str | None:
    """What speaks against asking this model for a part of the picture; `others` are what it gets beside the latents.

    An extension that has its own `forward` on the model, or looks at its input first, counts on whole pictures.
    """
    hooks: Mapping[int, Callable[..., Any]] = vars(unet)["_forward_pre_hooks"]
    foreign = any(not str(getattr(hook, "__module__", "")).startswith(PACKAGE) for hook in hooks.values())
    if foreign or "forward" in vars(unet):
        return REPLACED
    return SPATIAL if _spatial(others) else None


def _spatial(value: Any, depth: int = 4) -> bool:
    """Whether tensors with rows and columns are somewhere in it."""
    if isinstance(value, Tensor):
        return value.ndim >= 4 and value.shape[-2:].numel() > 1
    if depth == 0 or not isinstance(value, (Mapping, list, tuple)):
        return False
    items = cast("Mapping[Any, Any]", value).values() if isinstance(value, Mapping) else cast("Sequence[Any]", value)
    return any(_spatial(item, depth - 1) for item in items)


def _tensor(output: Any) -> Tensor:
    """The answer of a UNet: itself, the first of several, or diffusers' `sample`."""
    if isinstance(output, Tensor):
        return output
    return cast("tuple[Tensor, ...]", output)[0] if isinstance(output, tuple) else output.sample


def _like(output: Any, answer: Tensor) -> Any:
    """`answer` in the form of `output`."""
    if isinstance(output, Tensor):
        return answer
    if isinstance(output, tuple):
        return (answer, *cast("tuple[Any, ...]", output)[1:])
    return dataclasses.replace(output, sample=answer)
