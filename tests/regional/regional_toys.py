"""A UNet of toy size with the original code base's names, and attention written the plain way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lib_loraclr.regional import parse_spec
from lib_loraclr.regional.conditions import BatchRow, Encoded, RegionText
from lib_loraclr.regional.runtime import RegionalRuntime
from lib_loraclr.regional.sites import find_sites
from lib_loraclr.regional.weights import RegionWeights

WIDTH, TEXT, HEADS, POOLED, TIME = 8, 6, 2, 3, 5
Boxes = list[list[float]]


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int = HEADS) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of (b, n, c), head by head."""
    b, n, c = q.shape
    q, k, v = (t.reshape(b, -1, heads, c // heads).transpose(1, 2) for t in (q, k, v))
    weights = (q @ k.transpose(-1, -2) * (c // heads) ** -0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).reshape(b, n, c)


class CrossAttention(nn.Module):
    def __init__(self, context: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(WIDTH, WIDTH, bias=False)
        self.to_k = nn.Linear(context, WIDTH, bias=False)
        self.to_v = nn.Linear(context, WIDTH, bias=False)
        self.to_out = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.0))

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Any = None) -> Tensor:
        context = x if context is None else context
        return self.to_out(attend(self.to_q(x), self.to_k(context), self.to_v(context)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn1, self.attn2 = CrossAttention(WIDTH), CrossAttention(TEXT)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.ff = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context=context)
        return x + self.ff(x)


class SpatialTransformer(nn.Module):
    def __init__(self, depth: int = 1) -> None:
        super().__init__()
        self.proj_in = nn.Conv2d(WIDTH, WIDTH, 1)
        self.transformer_blocks = nn.ModuleList(Block() for _ in range(depth))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        tokens = self.proj_in(x).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + tokens.transpose(1, 2).unflatten(2, x.shape[-2:])


class ResBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.in_layers = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(TIME, WIDTH))
        self.out_layers = nn.Sequential(nn.SiLU(), nn.Conv2d(WIDTH, WIDTH, 3, padding=1))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x)
        return x + self.out_layers(h + self.emb_layers(emb)[:, :, None, None])


class Stage(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.res, self.attention = ResBlock(), SpatialTransformer(depth)


class ToyUNet(nn.Module):
    """Three stages: full size, half size in the middle, full size; the embedding is time plus label as in SDXL."""

    def __init__(self, label: bool = True) -> None:
        super().__init__()
        self.output_blocks = nn.ModuleList([Stage(1)])  # registered first: the order must come from the names
        self.input_blocks = nn.ModuleList([Stage(2)])
        self.middle_block = Stage(1)
        self.time_embed = nn.Linear(1, TIME)
        self.label_emb = nn.Linear(POOLED + 2, TIME) if label else None

    def forward(self, x: Tensor, t: Tensor, context: Tensor, y: Tensor | None = None) -> Tensor:
        emb = self.time_embed(t[:, None])
        if self.label_emb is not None:
            emb = emb + self.label_emb(y)
        for stage in self.input_blocks:
            x = stage.attention(stage.res(x, emb), context)
        skip = x
        x = nn.functional.avg_pool2d(x, 2, ceil_mode=True)
        x = self.middle_block.attention(self.middle_block.res(x, emb), context)
        x = nn.functional.interpolate(x, skip.shape[-2:]) + skip
        for stage in self.output_blocks:
            x = stage.attention(stage.res(x, emb), context)
        return x


def toy(label: bool = True, seed: int = 0) -> ToyUNet:
    """A toy UNet with weights of a seed, without gradients, so that the tests need no global seed."""
    unet = ToyUNet(label)
    generator = torch.Generator().manual_seed(seed)
    for parameter in unet.parameters():
        fan_in = parameter.shape[1:].numel() if parameter.ndim > 1 else 4
        parameter.data = torch.randn(parameter.shape, generator=generator) * fan_in**-0.5
        parameter.requires_grad_(False)
    return unet


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def text(seed: int, tokens: int = 7, pooled: bool = True) -> Encoded:
    return Encoded(noise(tokens, TEXT, seed=seed), noise(POOLED, seed=seed + 1000) if pooled else None)


def layout_of(boxes: Boxes, height: int = 8, width: int = 8, **fields: Any) -> RegionWeights:
    """A layout of boxes; hard edges unless `feather` says otherwise. `each` are fields of the regions in turn."""
    each = fields.pop("each", [{}] * len(boxes))
    regions = [{"shape": {"t": "box", "r": box}, **more} for box, more in zip(boxes, each, strict=True)]
    return RegionWeights(parse_spec({"feather": 0, **fields, "regions": regions}), height, width)


class Run:
    """A UNet call of `pictures` pictures: unconditional rows first, then conditional ones."""

    def __init__(self, unet: ToyUNet, height: int = 8, width: int = 8, pictures: int = 1) -> None:
        self.unet, self.pictures = unet, pictures
        self.x = torch.cat([noise(pictures, WIDTH, height, width, seed=5)] * 2)
        self.t = torch.full((2 * pictures,), 0.3)
        self.sizes = noise(1, 2, seed=6).expand(2 * pictures, -1)
        self.rows = [BatchRow(k, branch) for branch in (False, True) for k in range(pictures)]

    def plain(self, negative: Encoded, positive: Encoded) -> Tensor:
        """One negative and one positive for all pictures, no regions."""
        texts = [negative] * self.pictures + [positive] * self.pictures
        context = torch.stack([one.at(0) for one in texts])
        y = torch.cat([torch.stack([one.pooled for one in texts]), self.sizes], 1) if self.unet.label_emb else None
        return self.unet(self.x, self.t, context, y)

    def regional(
        self, layout: RegionWeights, texts: list[RegionText], negative: Encoded, positive: Encoded,
        progress: float = 0.0, loras: Any = None,
    ) -> Tensor:  # fmt: skip
        """The same with regions, all pictures alike."""
        runtime = RegionalRuntime(layout, find_sites(self.unet))
        with runtime.installed(loras):
            runtime.begin_step(progress, [texts] * self.pictures)
            with runtime.calling(self.rows):
                output = self.plain(negative, positive)
        assert runtime.notes == []
        assert hooks(self.unet) == 0
        return output


def hooks(module: nn.Module) -> int:
    """Forward hooks of any kind in a whole model."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())
