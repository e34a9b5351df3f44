"""The adapter of the `ldm_patched` family around stand-ins: the standalone host's numbers, everything as before."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lib_loraclr.app.jobs import JobProgress
from lib_loraclr.core.errors import Cancelled, InputError
from lib_loraclr.hosts.standalone import StandaloneHost
from lib_loraclr.model import SampleRequest

LAYER = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
OURS = ("lib_loraclr.hosts.webui", "lib_loraclr.hosts.webui.ldm_patched", "lib_loraclr.hosts.webui.forge")


@pytest.fixture
def webui(
    plain: StandaloneHost, beside: Any, tiny_sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """The WebUI with the checkpoint loaded, and the application that `detect` chooses in it."""
    base, family = beside("standin"), beside("ldm_patched_standin")
    model, manager = family.ShellModel(plain, tiny_sd1), family.Manager()
    modules = base.build(model, tmp_path) | family.build(manager)
    monkeypatch.delitem(sys.modules, "backend.memory_management", raising=False)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in [one for one in sys.modules if one.startswith(OURS)]:
        monkeypatch.delitem(sys.modules, name)
    detect = importlib.import_module("lib_loraclr.hosts.detect")
    monkeypatch.setattr(detect, "_application", None)
    yield SimpleNamespace(
        application=detect.webui_application(), model=model, manager=manager, modules=modules, family=family
    )
    manager.load(model.forge_objects_original.unet)
    for name in [one for one in sys.modules if one.startswith(OURS)]:
        del sys.modules[name]


def state(webui: Any) -> tuple[Any, ...]:
    """What a job might leave changed."""
    model = webui.model
    hooks = [
        len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.forge_objects_original.unet.model.modules()
    ]
    return model.forge_objects, model.tiling_enabled, torch.is_grad_enabled(), sum(hooks), model.current_lora_hash


def test_it_is_chosen_and_describes_the_loaded_checkpoint(webui: Any, plain: StandaloneHost) -> None:
    info = webui.application.model()
    assert webui.application.family.title == "WebUI on ldm_patched"
    assert (info.name, info.family, info.native_size) == ("tiny_sd1", "sd1", plain.info.native_size)
    assert (info.dtype, info.variant) == (torch.float32, "")
    webui.modules["modules.sd_models"].model_data.sd_model = None
    assert webui.application.model() is None


@pytest.mark.parametrize("wrapped", [False, True])
def test_layers_have_the_standalone_host_s_names_and_weights(webui: Any, plain: StandaloneHost, wrapped: bool) -> None:
    host = webui.application.open_host(None, "auto")
    assert set(host.layers()) == set(plain.layers())
    assert all(host.layers()[name] is module for name, module in plain.layers().items())
    base = plain.base_weight(LAYER)
    webui.manager.load(webui.model.forge_objects_original.unet.with_lora(0.5, wrapped=wrapped))
    assert not torch.equal(host.layers()[LAYER].weight, base)
    assert torch.equal(host.base_weight(LAYER), base)


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_sampling_gives_the_standalone_host_s_latents_without_the_last_picture_s_lora(
    webui: Any, plain: StandaloneHost, cfg: float
) -> None:
    host = webui.application.open_host(None, "auto")
    request = SampleRequest(["a cat", "a dog on a chair"], [3, 4], 3, (64, 64), cfg, "ugly")
    random = torch.get_rng_state()
    webui.model.forge_objects.unet = webui.model.forge_objects.unet.with_lora(0.5)
    webui.manager.load(webui.model.forge_objects.unet)
    with host.ready():
        latents = host.sample(request)
    assert torch.equal(random, torch.get_rng_state())
    with plain.ready():
        assert (latents - plain.sample(request)).abs().max() < 2e-4
    assert webui.manager.log[-2:] == ["cleanup", "empty"]


def test_gradients_are_the_standalone_host_s(webui: Any, plain: StandaloneHost, beside: Any) -> None:
    outside = state(webui)
    beside("gradient_checks").check(lambda: webui.application.open_host(None, "auto"), plain)
    assert "texts" in webui.manager.log
    assert state(webui) == outside


@pytest.mark.parametrize("error", [None, RuntimeError("CUDA out of memory"), Cancelled()])
def test_everything_is_as_before_after_every_end(webui: Any, error: Exception | None) -> None:
    host, outside = webui.application.open_host(None, "auto"), state(webui)

    class Ending(JobProgress):
        def step(self, text: str = "") -> None:
            if error is not None:
                raise error

    with contextlib.suppress(RuntimeError, Cancelled), host.ready():
        inside = state(webui)
        host.sample(SampleRequest(["a"], [0], 2, (64, 64)), Ending())
    assert inside[1:3] == (False, False)
    assert inside[0] is not outside[0]
    assert inside[0].unet is webui.model.forge_objects_original.unet
    assert state(webui) == outside
    assert webui.manager.log[-1] == "empty"


def test_a_replaced_file_is_merged_anew(webui: Any) -> None:
    webui.application.forget("x")
    assert webui.model.current_lora_hash == "replaced"


def test_a_model_with_two_encoders_or_another_one_has_its_family(webui: Any, plain: StandaloneHost) -> None:
    stage = webui.model.forge_objects_original.clip.cond_stage_model
    stage.clip_g = stage.clip_l
    assert webui.application.model().family == "sdxl"
    del stage.clip_l, stage.clip_g
    stage.clip_h = torch.nn.Module()
    stage.clip_h.transformer = plain.text.encoders[0]
    assert webui.application.model().family == "sd2"


def test_what_cannot_be_captured_is_said(webui: Any) -> None:
    webui.model.forge_objects_original.unet.model.diffusion_model.in_channels = 9
    with pytest.raises(InputError, match="text to image"):
        webui.application.open_host(None, "auto")
    webui.modules["modules.shared"].sd_model = None
    with pytest.raises(InputError, match="No checkpoint"):
        webui.application.open_host(None, "auto")


def test_a_folder_is_shown_only_where_the_webui_can(webui: Any) -> None:
    assert webui.application.open_folder is not None
    del webui.modules["modules.util"].open_folder
    assert webui.application.open_folder is None


def test_regions_find_the_same_host(webui: Any) -> None:
    regional = webui.application.regional()
    assert type(regional).__name__ == "ForgeRegional"
    assert type(regional.loaded_host()).__name__ == "LdmPatchedHost"
