"""Where the hooks go: the parts of a UNet found by what they have, not by what they are called.

The original code base (A1111, Forge, reForge) and diffusers name things differently, but in all of them a spatial
transformer owns `transformer_blocks` with `attn1` and `attn2`, and a residual block projects one embedding per picture
and adds it to its features before a second normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AttentionBlock:
    """One transformer block. `number` counts cross-attention layers down, middle, up; `owner` sees (b, c, h, w)."""

    number: int
    name: str
    owner: nn.Module
    attn1: nn.Module
    attn2: nn.Module


@dataclass(frozen=True)
class Residual:
    """One residual block: `projection` of the activated embedding (b, e) to (b, c); its sum enters `add_at`."""

    name: str
    projection: nn.Module
    activation: Activation
    add_at: nn.Module


@dataclass(frozen=True)
class Sites:
    """What `find_sites` found. Without `label_embed` the model has no pooled text vector (SD1, SD2)."""

    blocks: tuple[AttentionBlock, ...]
    residuals: tuple[Residual, ...] = ()
    time_embed: nn.Module | None = None
    label_embed: nn.Module | None = None
    named: dict[str, AttentionBlock] = field(default_factory=dict)  # by the module path of the block
    unet: nn.Module | None = None
    reduction: int = 1  # cells of the latents, along one side, to a cell of the deepest layer

    @property
    def owners(self) -> tuple[nn.Module, ...]:
        """The spatial transformers, each once."""
        return tuple(dict.fromkeys(block.owner for block in self.blocks))


def find_sites(unet: nn.Module) -> Sites:
    """The sites of a UNet of A1111, Forge, reForge or diffusers. Empty where there is nothing to hook."""
    named = sorted(unet.named_modules(), key=_stage)  # stable: order within a stage is kept
    blocks: list[AttentionBlock] = []
    residuals: list[Residual] = []
    for name, module in named:
        inner = getattr(module, "transformer_blocks", None)
        if isinstance(inner, nn.ModuleList):
            for index, block in enumerate(inner):
                attn1, attn2 = getattr(block, "attn1", None), getattr(block, "attn2", None)
                if isinstance(attn1, nn.Module) and isinstance(attn2, nn.Module):
                    path = f"{name}.transformer_blocks.{index}"
                    blocks.append(AttentionBlock(len(blocks), path, module, attn1, attn2))
        residual = _residual(name, module)
        if residual is not None:
            residuals.append(residual)
    time = _child(unet, "time_embed", "time_embedding")
    label = _child(unet, "label_emb", "add_embedding")
    by_name = {block.name: block for block in blocks}
    return Sites(tuple(blocks), tuple(residuals), time, label, by_name, unet, _reduction(unet))


def _reduction(unet: nn.Module) -> int:
    """The product of the strides of all convolutions."""
    return math.prod(max(module.stride) for module in unet.modules() if isinstance(module, nn.Conv2d))


def _stage(item: tuple[str, nn.Module]) -> int:
    """0 on the way down, 1 in the middle, 2 on the way up: the order in which a UNet runs."""
    name = item[0]
    if name.startswith(("mid", "middle")):
        return 1
    return 2 if name.startswith(("up", "output")) else 0


def _residual(name: str, module: nn.Module) -> Residual | None:
    """A residual block that adds its embedding; those that scale with it as well are not for spatial embeddings."""
    ldm = _child(module, "emb_layers"), _child(module, "out_layers")
    if ldm[0] is not None and ldm[1] is not None and not getattr(module, "use_scale_shift_norm", False):
        return Residual(name, ldm[0], lambda embedding: embedding, ldm[1])
    other = _child(module, "time_emb_proj"), _child(module, "norm2")
    activation = _child(module, "nonlinearity")
    plain = getattr(module, "time_embedding_norm", "default") == "default"
    if other[0] is not None and other[1] is not None and activation is not None and plain:
        return Residual(name, other[0], activation, other[1])
    return None


def _child(module: nn.Module, *names: str) -> nn.Module | None:
    found = (getattr(module, name, None) for name in names)
    return next((child for child in found if isinstance(child, nn.Module)), None)
