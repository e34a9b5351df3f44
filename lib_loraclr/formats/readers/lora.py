"""LoRA and LoCon: dW = alpha / r * up @ down, with an optional Tucker core for convolutions.

kohya `networks/lora.py`, LyCORIS `functional/locon.py` and `rebuild_tucker`, PEFT `lora.Linear.get_delta_weight`.
"""

from __future__ import annotations

import math

from torch import Tensor

from lib_loraclr.core.deltas import LowRank
from lib_loraclr.formats.readers.parts import Parts, Update, flat_size


class LoraUpdate(Update):
    """up (out, r[, 1, 1]), down (r, in[, kh, kw]), mid (r, r, kh, kw); kind "locon" where a kernel is involved."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        parts.require("lora_up", "lora_down")
        parts.require_axes("lora_up", "lora_down")
        parts.require_axes("lora_mid", counts=(4,))
        if "lora_mid" in parts:
            parts.require_equal("rank", ("lora_up", 1), ("lora_mid", 0))
            parts.require_equal("rank", ("lora_mid", 1), ("lora_down", 0))
        else:
            parts.require_equal("rank", ("lora_up", 1), ("lora_down", 0))
        up, down = parts.shape("lora_up"), parts.shape("lora_down")
        parts.require_point("lora_up")
        if "lora_mid" in parts:
            parts.require_point("lora_down")
        self.kernel = parts.shape("lora_mid")[2:] if "lora_mid" in parts else down[2:]
        self.kind = "locon" if math.prod(self.kernel) > 1 else "lora"
        self.rank = down[0]
        self.size = (up[0], flat_size(down) * (math.prod(self.kernel) if "lora_mid" in parts else 1))

    @classmethod
    def claims(cls, parts: Parts) -> bool:
        """With either factor."""
        return "lora_up" in parts or "lora_down" in parts

    def delta(self, base: Tensor | None = None) -> LowRank:
        """Both factors, the scale folded into `up`."""
        parts = self.parts
        up, down = parts.matrix("lora_up") * parts.scale(self.rank), parts.matrix("lora_down")
        return LowRank.from_tucker(up, parts.read("lora_mid"), down) if "lora_mid" in parts else LowRank(up, down)
