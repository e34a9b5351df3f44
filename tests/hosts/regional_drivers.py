"""The real session and adapters around toy UNets, driven as the denoisers of A1111 and Forge drive them."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "regional"))

import fake_webui
from fake_webui import Model, Processing, encode_words
from regional_toys import WIDTH, CrossAttention, noise, toy

from lib_loraclr.regional import parse_spec

LEFT, RIGHT = [0, 0, 0.5, 1], [0.5, 0, 1, 1]
FULL = {"regions": [{"shape": {"t": "box", "r": [0, 0, 1, 1]}, "prompt": "a red cat"}]}


def same(found: Tensor, wanted: Tensor) -> bool:
    """Equal but for rounding, which differs with the number of rows in a product."""
    return float((found - wanted).abs().max()) <= 2e-5 * float(wanted.abs().max())


def halves(**more: Any) -> dict[str, Any]:
    regions = [
        {"shape": {"t": "box", "r": box}, "prompt": text, "negative": negative, "negative_mode": "replace"}
        for box, text, negative in ((LEFT, "a red cat", "dog"), (RIGHT, "one blue bird in a tree", "dog"))
    ]
    return {"feather": 0, "regions": regions, **more}


class A1111:
    """The real session and adapter around a toy UNet, driven as A1111's denoiser drives it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.unet = toy(label=False)
        self.shared = fake_webui.install(monkeypatch, Model(self.unet))
        from lib_loraclr.frontends.panel.session import RegionalSession
        from lib_loraclr.hosts.webui.a1111.regional import A1111Regional
        from lib_loraclr.hosts.webui.catalogue import WebuiCatalogue

        application = SimpleNamespace(catalogue=WebuiCatalogue(lambda name: None))
        self.host, self.session_type = A1111Regional(application), RegionalSession

    def session(self, spec: dict[str, Any], p: Processing) -> Any:
        read = parse_spec(spec)
        session = self.session_type(read, self.host, {})
        session.begin(p, read)
        session.before_batch(p, p.prompts)
        p.prompts = [fake_webui.parse_prompt(prompt)[0] for prompt in p.prompts]
        session.around_sampling(p)
        return session

    def conds(self, p: Processing) -> tuple[list[list[Tensor]], list[Tensor]]:
        """Per picture the parts of AND, and the negatives."""
        return (
            [[encode_words(part) for part in prompt.split(" AND ")] for prompt in p.prompts],
            [encode_words(negative) for negative in p.negative_prompts],
        )

    def evaluate(self, session: Any, p: Processing, x: Tensor, step: int = 0, *, together: bool = True,
                 chunk: int = 0, skip: bool = False, size: int = 12) -> Tensor:  # fmt: skip
        """One step: (rows, c, h, w) of the model's outputs in the denoiser's order, padded to `size` words."""
        parts, negatives = self.conds(p)
        rows = [(picture, cond) for picture, conds in enumerate(parts) for cond in conds]
        rows += [(picture, cond) for picture, cond in enumerate(negatives)]
        batch = SimpleNamespace(batch=[[None] * len(conds) for conds in parts])
        denoiser = SimpleNamespace(
            p=p, step=step, total_steps=p.steps, sampler=SimpleNamespace(sampler_extra_args={"cond": batch})
        )
        inputs = torch.stack([x[picture] for picture, _ in rows])
        session.step(p, SimpleNamespace(x=inputs, denoiser=denoiser))
        used = len(rows) - len(negatives) if skip else len(rows)
        each = used if together else chunk
        found = []
        for start in range(0, used, each):
            part = rows[start : min(start + each, used)]
            context = torch.stack([padded(cond, size) for _, cond in part])
            found.append(self.unet(inputs[start : start + len(part)], torch.full((len(part),), 0.3), context))
        return torch.cat(found)


def padded(cond: Tensor, size: int) -> Tensor:
    return torch.cat([cond, cond[-1:].expand(size - len(cond), -1)])


def latents(pictures: int, height: int = 8, width: int = 8) -> Tensor:
    return noise(pictures, WIDTH, height, width, seed=5)


class ForgeBlock(nn.Module):
    """Forge's transformer block: attention replacements bypass the layer's own call."""

    def __init__(self) -> None:
        super().__init__()
        self.attn1, self.attn2 = CrossAttention(WIDTH), CrossAttention(fake_webui.WIDTH)

    def forward(self, x: Tensor, context: Tensor, options: dict[str, Any]) -> Tensor:
        x = x + self.attn1(x)
        replace = options.get("patches_replace", {}).get("attn2", {}).get(options["block"])
        if replace is None:
            return x + self.attn2(x, context=context)
        extra = {key: value for key, value in options.items() if key != "patches_replace"}
        layer = self.attn2
        return x + layer.to_out(replace(layer.to_q(x), layer.to_k(context), layer.to_v(context), extra))


class ForgeTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList([ForgeBlock()])

    def forward(self, x: Tensor, context: Tensor, options: dict[str, Any]) -> Tensor:
        tokens = self.transformer_blocks[0](x.flatten(2).transpose(1, 2), context, {**options, "block_index": 0})
        return tokens.transpose(1, 2).unflatten(2, x.shape[-2:])


class ForgeUNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Identity(), ForgeTransformer()]) for _ in range(2)])

    def forward(self, x: Tensor, context: Tensor, options: dict[str, Any]) -> Tensor:
        for number, (_, transformer) in enumerate(self.input_blocks):
            x = transformer(x, context, {**options, "block": ("input", number)})
        return x


class Patcher:
    """`UnetPatcher`: clones copy the options deeply."""

    def __init__(self, model: Any, options: dict[str, Any] | None = None) -> None:
        self.model, self.model_options = model, options or {"transformer_options": {}}

    def clone(self) -> Patcher:
        return Patcher(self.model, copy.deepcopy(self.model_options))

    def set_model_unet_function_wrapper(self, wrapper: Any) -> None:
        self.model_options["model_function_wrapper"] = wrapper

    def set_model_attn2_replace(self, patch: Any, block: str, number: int, index: int | None = None) -> None:
        key = (block, number) if index is None else (block, number, index)
        replace = self.model_options["transformer_options"].setdefault("patches_replace", {})
        replace.setdefault("attn2", {})[key] = patch

    def set_model_sampler_post_cfg_function(self, function: Any) -> None:
        self.model_options.setdefault("sampler_post_cfg_function", []).append(function)


class Forge(A1111):
    """The same session with Forge's adapter."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.unet = ForgeUNet()
        for k, parameter in enumerate(self.unet.parameters()):
            parameter.data = noise(*parameter.shape, seed=100 + k) * 0.6
            parameter.requires_grad_(False)
        self.model = SimpleNamespace(
            encoded=[], encode=encode_words,
            forge_objects=SimpleNamespace(unet=Patcher(SimpleNamespace(diffusion_model=self.unet))),
        )  # fmt: skip
        self.shared = fake_webui.install(monkeypatch, self.model)
        from lib_loraclr.frontends.panel.session import RegionalSession
        from lib_loraclr.hosts.webui.forge.regional import ForgeRegional

        self.host, self.session_type = ForgeRegional(SimpleNamespace()), RegionalSession

    @property
    def patcher(self) -> Patcher:
        return self.model.forge_objects.unet

    def processing(self, prompts: list[str]) -> Processing:
        return Processing(prompts, ["bad"] * len(prompts), sd_model=self.model)

    def run_chunks(self, session: Any, p: Processing, x: Tensor, chunks: list[int], calls: list[int]) -> Tensor:
        """Outputs of (conditional, unconditional) pictures; `calls` are the sizes of the model's calls in chunks."""
        denoiser = SimpleNamespace(p=p, step=0, total_steps=p.steps)
        session.step(p, SimpleNamespace(x=x, denoiser=denoiser))
        texts = {0: p.prompts, 1: p.negative_prompts}
        found: dict[int, Tensor] = {}
        at = 0
        for size in calls:
            part = chunks[at : at + size]
            at += size
            context = torch.stack([padded(encode_words(text), 12) for chunk in part for text in texts[chunk]])
            options = self.patcher.model_options["transformer_options"]
            given = {"input": torch.cat([x] * size), "timestep": None, "cond_or_uncond": part,
                     "c": {"context": context, "options": options}}  # fmt: skip
            wrapper: Callable[..., Tensor] | None = self.patcher.model_options.get("model_function_wrapper")
            apply = lambda x, t, context, options: self.unet(x, context, options)  # noqa: E731
            output = wrapper(apply, given) if wrapper else apply(given["input"], None, context, options)
            found |= dict(zip(part, output.chunk(size), strict=True))
        return torch.cat([found[chunk] for chunk in (0, 1) if chunk in found])
