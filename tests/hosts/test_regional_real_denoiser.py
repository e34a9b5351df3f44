"""Whose row is whose in A1111's own denoiser: its source file is run, in every mode of it, around a counting UNet."""

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "regional"))

import fake_webui

from lib_loraclr.regional.conditions import BatchRow

WEBUI = os.environ.get("LORACLR_WEBUI_DIR", "")
SOURCE = Path(WEBUI) / "modules" / "sd_samplers_cfg_denoiser.py"
pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(not WEBUI or not SOURCE.is_file(), reason="LORACLR_WEBUI_DIR names no checkout of A1111"),
]
MODES = list(itertools.product((1, 2, 3, 4), ("none", "first", "all"), (4, 6), (True, False), (True, False), range(3)))


class Counting(nn.Module):
    """Notes which rows it is given: a row's latents hold its picture, its context its branch."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[BatchRow] = []

    def forward(self, x: Tensor, sigma: Tensor, cond: dict[str, Any]) -> Tensor:
        context = cond["c_crossattn"][0]
        self.given += [BatchRow(int(a), bool(b > 0)) for a, b in zip(x[:, 0, 0, 0], context[:, 0, 0], strict=True)]
        return x.clone()


class Recorder:
    """The part of the runtime that the pass talks to."""

    def __init__(self) -> None:
        self.region_weights = SimpleNamespace(height=2, width=2, guides=False)
        self.told: list[BatchRow] = []

    def begin_step(self, progress: float, texts: Any) -> None:
        self.told = []

    def begin_call(self, rows: Any) -> None:
        self.told += rows

    def end_call(self) -> None:
        pass


def real_denoiser(monkeypatch: pytest.MonkeyPatch, shared: Any, callback: Any) -> type[nn.Module]:
    """The class `CFGDenoiser` of the checkout, with what it imports reduced to what it uses."""
    package = sys.modules["modules"]
    shared.state = SimpleNamespace(interrupted=False, skipped=False, sampling_step=0, sampling_steps=4)
    params = (
        "x",
        "image_cond",
        "sigma",
        "sampling_step",
        "total_sampling_steps",
        "text_cond",
        "text_uncond",
        "denoiser",
    )
    callbacks: dict[str, Any] = {
        "CFGDenoiserParams": lambda *given: SimpleNamespace(**dict(zip(params, given, strict=True))),
        "CFGDenoisedParams": lambda *given: given, "AfterCFGCallbackParams": lambda x, *_: SimpleNamespace(x=x),
        "cfg_denoiser_callback": callback,
        **dict.fromkeys(("cfg_denoised_callback", "cfg_after_cfg_callback"), lambda _: None),
    }  # fmt: skip
    parts: dict[str, Any] = {
        "modules.script_callbacks": SimpleNamespace(**callbacks),
        "modules.sd_samplers_common": SimpleNamespace(
            apply_refiner=lambda *_: False, InterruptedException=RuntimeError, store_latent=lambda _: None
        ),
        "modules.prompt_parser": SimpleNamespace(
            reconstruct_multicond_batch=lambda cond, step: (cond.list, cond.tensor),
            reconstruct_cond_batch=lambda uncond, step: uncond,
        ),
    }
    for name, part in parts.items():
        module = ModuleType(name)
        vars(module).update(vars(part))
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(package, name.split(".")[1], module, raising=False)
    spec = importlib.util.spec_from_file_location("real_cfg_denoiser", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CFGDenoiser


@pytest.mark.parametrize(("pictures", "parts", "length", "together", "skip", "pad"), MODES)
def test_the_cursor_names_every_row(
    monkeypatch: pytest.MonkeyPatch, pictures: int, parts: str, length: int, together: bool, skip: bool, pad: int
) -> None:
    """`length`: tokens of the prompts (negatives have 4); `skip`: a step without negatives; `pad`: the way of it."""
    unet = Counting()
    model = SimpleNamespace(
        cond_stage_key="txt", model=SimpleNamespace(conditioning_key="crossattn", diffusion_model=unet),
        cond_stage_model_empty_prompt=torch.full((1, 2, 3), 0.5),
    )  # fmt: skip
    shared = fake_webui.install(monkeypatch, model)
    from lib_loraclr.hosts.webui.a1111.regional import A1111Pass

    runtime: Any = Recorder()
    running = A1111Pass(unet, runtime, SimpleNamespace(at=lambda step: []), pytest.fail)  # pyright: ignore[reportArgumentType]
    denoiser_class: Any = real_denoiser(monkeypatch, shared, running.step)
    shared.opts = SimpleNamespace(
        skip_early_cond=0.0, s_min_uncond_all=skip, pad_cond_uncond=pad == 1, pad_cond_uncond_v0=pad == 2,
        batch_cond_uncond=together, live_preview_content="Combined",
    )  # fmt: skip
    denoiser_class.inner_model = property(lambda self: unet)
    for name, value in (("opts", shared.opts), ("state", shared.state)):
        monkeypatch.setitem(denoiser_class.forward.__globals__, name, value)

    counts = [3 if parts == "all" or (parts == "first" and k == 0) else 1 for k in range(pictures)]
    ends = list(itertools.accumulate(counts))
    listed = [[(k, 1.0) for k in range(end - count, end)] for count, end in zip(counts, ends, strict=True)]
    cond = SimpleNamespace(list=listed, tensor=torch.ones(ends[-1], length, 3), batch=listed)
    sampler = SimpleNamespace(sampler_extra_args={"cond": cond})
    denoiser = denoiser_class(sampler)
    denoiser.p = SimpleNamespace(extra_generation_params={}, cfg_scale=5.0)
    denoiser.total_steps = 4
    x = torch.arange(float(pictures))[:, None, None, None].expand(-1, 4, 2, 2).clone()
    image = torch.zeros(pictures, 5, 1, 1)
    denoiser(x, torch.full((pictures,), 0.1), -torch.ones(pictures, 4, 3), cond, 5.0, 1.0 if skip else 0.0, image)
    running.stop()

    assert runtime.told == unet.given
    assert len(unet.given) == ends[-1] + (0 if skip else pictures)
    assert sum(row.conditional for row in unet.given) == ends[-1]
