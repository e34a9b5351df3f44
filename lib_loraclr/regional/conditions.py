"""The encoded texts of a step, and which of them every row of a UNet call needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

RowIndex = slice | Tensor


@dataclass(frozen=True, eq=False)
class Encoded:
    """One encoded text. `context` (tokens, width), or one such tensor per cross-attention layer (P+, ED-LoRA).

    `pooled` (features,) is SDXL's pooled text vector.
    """

    context: Tensor | Sequence[Tensor]
    pooled: Tensor | None = None

    def at(self, layer: int) -> Tensor:
        """The context of one cross-attention layer; a list that is too short ends with its last entry."""
        if isinstance(self.context, Tensor):
            return self.context
        return self.context[min(layer, len(self.context) - 1)]

    @property
    def layered(self) -> bool:
        """Whether layers have contexts of their own."""
        return not isinstance(self.context, Tensor)


@dataclass(frozen=True, eq=False)
class RegionText:
    """What one region says in one picture; `negative` None: the picture's own, which is not computed again."""

    positive: Encoded
    negative: Encoded | None = None


@dataclass(frozen=True)
class BatchRow:
    """One batch row of a UNet call: which picture, and which branch of guidance."""

    picture: int
    conditional: bool


@dataclass(eq=False)
class RegionRows:
    """One region's part in one call: the batch rows that have an equally long context of it."""

    region: int
    rows: RowIndex
    texts: tuple[Encoded, ...]
    _stacked: dict[int, Tensor] = field(default_factory=dict)

    def context(self, layer: int, like: Tensor) -> Tensor:
        """(rows, tokens, width) at a layer, on the device and in the dtype of `like`."""
        key = layer if self.texts[0].layered else -1
        stacked = self._stacked.get(key)
        if stacked is None or stacked.device != like.device or stacked.dtype != like.dtype:
            stacked = torch.stack([text.at(layer).to(like.device, like.dtype) for text in self.texts])
            self._stacked[key] = stacked
        return stacked

    def whole(self, layer: int, like: Tensor) -> Tensor:
        """(b, tokens, width) for all rows of `like` (b, ...); rows that have no text of this region get some text."""
        own = self.context(layer, like)
        filled = own[:1].repeat(like.shape[0], 1, 1)
        filled[self.rows] = own
        return filled


@dataclass(frozen=True, eq=False)
class Call:
    """One UNet call: `groups` of the regions that act, and `present[row][region]`: has this row a text of its own."""

    rows: tuple[BatchRow, ...]
    groups: tuple[RegionRows, ...]
    present: tuple[tuple[bool, ...], ...]

    @property
    def uniform(self) -> bool:
        """Whether all rows have the same regions, so that one set of base weights serves them all."""
        return all(one == self.present[0] for one in self.present[1:])


def plan_call(rows: Sequence[BatchRow], conditions: Sequence[Sequence[RegionText]], gates: Sequence[float]) -> Call:
    """Who attends to what. Raises ValueError if a row names a picture without conditions."""
    groups: list[RegionRows] = []
    present = [[False] * len(gates) for _ in rows]
    for row in rows:
        if not 0 <= row.picture < len(conditions) or len(conditions[row.picture]) != len(gates):
            raise ValueError(f"no regional texts for picture {row.picture}")
    for region, gate in enumerate(gates):
        by_length: dict[tuple[bool, int], list[tuple[int, Encoded]]] = {}
        for index, row in enumerate(rows if gate > 0 else ()):
            text = conditions[row.picture][region]
            encoded = text.positive if row.conditional else text.negative
            if encoded is not None:
                present[index][region] = True
                by_length.setdefault((encoded.layered, encoded.at(0).shape[0]), []).append((index, encoded))
        for members in by_length.values():
            indices = [index for index, _ in members]
            groups.append(RegionRows(region, row_index(indices), tuple(encoded for _, encoded in members)))
    return Call(tuple(rows), tuple(groups), tuple(tuple(one) for one in present))


def row_index(indices: Sequence[int]) -> RowIndex:
    """Rows as a slice where they follow each other (a view, no copy), else as an index tensor."""
    if list(indices) == list(range(indices[0], indices[0] + len(indices))):
        return slice(indices[0], indices[0] + len(indices))
    return torch.tensor(list(indices))
