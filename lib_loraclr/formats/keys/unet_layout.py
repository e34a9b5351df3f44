"""Module paths of the UNet: original (LDM) code base <-> diffusers.

LDM numbers the blocks of all levels through, diffusers counts per level; which is which follows from the number of
residual blocks a level (`res_blocks`), of levels, and from which up blocks have attention (that shifts the upsampler).
Every level but the last ends in a down- or upsampler.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_RESNET_TO_LDM = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_RESNET_FROM_LDM = {ldm: ours for ours, ldm in _RESNET_TO_LDM.items()}
_FIXED_TO_LDM = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_FIXED_FROM_LDM = {ldm: ours for ours, ldm in _FIXED_TO_LDM.items()}

_OURS = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_OURS_MID = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_THEIRS = re.compile(r"(input|output)_blocks\.(\d+)\.(\d+)\.(.+)")
_THEIRS_MID = re.compile(r"middle_block\.(\d+)\.(.+)")


@dataclass(frozen=True)
class UNetLayout:
    """What block numbers mean: `res_blocks` and `levels` as in the LDM config, `up_attention` by diffusers up block."""

    res_blocks: int
    levels: int
    up_attention: frozenset[int]

    @classmethod
    def of_family(cls, family: str) -> UNetLayout:
        """The standard model of a family; SD1's for "sd1", "sd2" and "unknown"."""
        return SDXL if family == "sdxl" else SD1

    @classmethod
    def from_diffusers(cls, names: Iterable[str]) -> UNetLayout | None:
        """Layout of a model from all its diffusers module paths; None without up blocks."""
        resnets: set[tuple[int, int]] = set()
        attention: set[int] = set()
        for name in names:
            match = _OURS.match(name)
            if match is None or match.group(1) != "up":
                continue
            level, kind, index = int(match.group(2)), match.group(3), int(match.group(4))
            if kind == "attentions":
                attention.add(level)
            if kind in ("resnets", "attentions"):
                resnets.add((level, index))
        if not resnets:
            return None
        return cls(max(index for _, index in resnets), max(level for level, _ in resnets) + 1, frozenset(attention))

    @classmethod
    def from_ldm(cls, names: Iterable[str]) -> UNetLayout | None:
        """Layout of a model from all its LDM module paths or parameter names; None without output blocks."""
        downsamplers: list[int] = []
        blocks = -1
        attention: set[int] = set()
        for name in names:
            match = _THEIRS.match(name)
            if match is None:
                continue
            index, rest = int(match.group(2)), match.group(4)
            if match.group(1) == "input":
                if match.group(3) == "0" and rest.startswith("op"):
                    downsamplers.append(index)
            else:
                blocks = max(blocks, index)
                if "transformer_blocks" in rest:
                    attention.add(index)
        if blocks < 0:
            return None
        res_blocks = min(downsamplers) - 1 if downsamplers else blocks
        per_level = res_blocks + 1
        return cls(res_blocks, (blocks + 1) // per_level, frozenset(index // per_level for index in attention))

    @classmethod
    def guess_from_ldm(cls, paths: Iterable[str], family: str) -> UNetLayout:
        """Layout from some LDM module paths (those of a LoRA): the family's standard one unless the paths rule it out.

        A downsampler's block has no attention and no residual block, so the indices give a non-standard count away.
        """
        standard = cls.of_family(family)
        seen = sorted(set(paths))
        for layout in (standard, SDXL, *(cls(n, 3, frozenset(range(3))) for n in (1, 3))):
            if all(layout.to_diffusers(path) for path in seen):
                return layout
        return standard

    def to_ldm(self, path: str) -> str | None:
        """LDM module path of a diffusers one (`conv_in`, `up_blocks.1.resnets.0.conv1` ...); None if it has none."""
        if path in _FIXED_TO_LDM:
            return _FIXED_TO_LDM[path]
        middle = _OURS_MID.fullmatch(path)
        if middle:
            kind, index, rest = middle.group(1), int(middle.group(2)), middle.group(3)
            rest = _RESNET_TO_LDM.get(rest) if kind == "resnets" else rest
            return rest and f"middle_block.{2 * index + (kind == 'attentions')}.{rest}"
        match = _OURS.fullmatch(path)
        if match is None:
            return None
        side, level, kind, index, rest = match.group(1), int(match[2]), match[3], int(match[4]), match[5]
        per_level = self.res_blocks + 1
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * per_level}.0.op" if rest == "conv" else None
        if kind == "upsamplers":
            place = 2 if level in self.up_attention else 1
            return f"output_blocks.{level * per_level + self.res_blocks}.{place}.{rest}"
        number = level * per_level + index
        block = f"input_blocks.{number + 1}" if side == "down" else f"output_blocks.{number}"
        rest = _RESNET_TO_LDM.get(rest) if kind == "resnets" else rest
        return rest and f"{block}.{int(kind == 'attentions')}.{rest}"

    def to_diffusers(self, path: str) -> str | None:
        """Diffusers module path of an LDM one; None if this layout has no such block."""
        if path in _FIXED_FROM_LDM:
            return _FIXED_FROM_LDM[path]
        middle = _THEIRS_MID.fullmatch(path)
        if middle:
            index, rest = int(middle.group(1)), middle.group(2)
            if index % 2:
                return f"mid_block.attentions.{index // 2}.{rest}"
            return self._resnet(f"mid_block.resnets.{index // 2}", rest)
        match = _THEIRS.fullmatch(path)
        if match is None or path.startswith("input_blocks.0."):
            return None
        down = match.group(1) == "input"
        level, index = divmod(int(match.group(2)) - down, self.res_blocks + 1)
        if level >= self.levels:
            return None
        return self._block_to_diffusers("down" if down else "up", level, index, int(match.group(3)), match.group(4))

    def _block_to_diffusers(self, side: str, level: int, index: int, place: int, rest: str) -> str | None:
        last = index == self.res_blocks
        if side == "down" and last:
            return f"down_blocks.{level}.downsamplers.0.conv" if (place, rest) == (0, "op") else None
        if side == "up" and place and rest == "conv":
            return f"up_blocks.{level}.upsamplers.0.conv" if last else None
        if place == 0:
            return self._resnet(f"{side}_blocks.{level}.resnets.{index}", rest)
        return f"{side}_blocks.{level}.attentions.{index}.{rest}" if place == 1 else None

    @staticmethod
    def _resnet(block: str, rest: str) -> str | None:
        ours = _RESNET_FROM_LDM.get(rest)
        return ours and f"{block}.{ours}"


SD1 = UNetLayout(2, 4, frozenset({1, 2, 3}))
SDXL = UNetLayout(2, 3, frozenset({0, 1}))
