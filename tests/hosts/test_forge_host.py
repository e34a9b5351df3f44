"""The Forge adapter around stand-ins: the standalone host's numbers, and everything as before after every end."""

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
from lib_loraclr.core.errors import Cancelled, InputError, LoraclrError
from lib_loraclr.hosts.standalone import StandaloneHost
from lib_loraclr.model import SampleRequest

LAYER = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
OURS = ("lib_loraclr.hosts.webui", "lib_loraclr.hosts.webui.forge")


@pytest.fixture
def forge(
    plain: StandaloneHost, beside: Any, tiny_sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """Forge with the checkpoint loaded, and the application on it."""
    webui, forge = beside("standin"), beside("forge_standin")
    engine = forge.Engine(plain, tiny_sd1)
    modules = webui.build(webui.Model(plain, tiny_sd1), tmp_path) | forge.build(engine)
    chosen = {"checkpoint_info": engine.sd_checkpoint_info}
    modules["modules.sd_models"].model_data = SimpleNamespace(sd_model=engine, forge_loading_parameters=chosen)
    modules["modules.sd_models"].forge_model_reload = lambda: None
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in [one for one in sys.modules if one.startswith(OURS)]:
        monkeypatch.delitem(sys.modules, name)
    family = importlib.import_module("lib_loraclr.hosts.webui.forge.host").FORGE
    application = importlib.import_module("lib_loraclr.hosts.webui.application").WebuiApplication(family)
    yield SimpleNamespace(
        application=application, engine=engine, modules=modules,
        log=modules["backend.sampling.sampling_function"].log,
    )  # fmt: skip
    engine.forge_objects_original.unet.load()
    for name in [one for one in sys.modules if one.startswith(OURS)]:
        del sys.modules[name]


def state(forge: Any) -> tuple[Any, ...]:
    """What a job might leave changed."""
    engine, unet = forge.engine, forge.engine.forge_objects_original.unet.model
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in unet.modules()]
    return (
        engine.forge_objects, engine.tiling_enabled, engine.text_processing_engine.clip_skip, torch.is_grad_enabled(),
        sum(hooks), engine.current_lora_hash,
    )  # fmt: skip


def test_layers_have_the_standalone_host_s_names_and_weights(forge: Any, plain: StandaloneHost) -> None:
    host = forge.application.open_host(None, "auto")
    assert set(host.layers()) == set(plain.layers())
    assert all(host.layers()[name] is module for name, module in plain.layers().items())
    base = plain.base_weight(LAYER)
    forge.engine.forge_objects_original.unet.with_lora(0.5).load()
    assert not torch.equal(host.layers()[LAYER].weight, base)
    assert torch.equal(host.base_weight(LAYER), base)


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_sampling_gives_the_standalone_host_s_latents_without_the_last_picture_s_lora(
    forge: Any, plain: StandaloneHost, cfg: float
) -> None:
    host = forge.application.open_host(None, "auto")
    request = SampleRequest(["a cat", "a dog on a chair"], [3, 4], 3, (64, 64), cfg, "ugly")
    random = torch.get_rng_state()
    forge.engine.forge_objects.unet = forge.engine.forge_objects.unet.with_lora(0.5)
    forge.engine.forge_objects.unet.load()
    with host.ready():
        latents = host.sample(request)
    assert torch.equal(random, torch.get_rng_state())
    with plain.ready():
        assert (latents - plain.sample(request)).abs().max() < 2e-4
    assert set(forge.engine.forge_objects_original.unet.model.rows) == {2 if cfg == 1.0 else 4}
    assert forge.log[-2:] == ["cleanup", "empty"]


@pytest.mark.parametrize("inference", [False, True])
def test_gradients_are_the_standalone_host_s(forge: Any, plain: StandaloneHost, beside: Any, inference: bool) -> None:
    outside = state(forge)
    beside("gradient_checks").check(lambda: forge.application.open_host(None, "auto"), plain, inference=inference)
    assert "texts" in forge.log
    assert state(forge) == outside


@pytest.mark.parametrize("error", [None, RuntimeError("CUDA out of memory"), Cancelled()])
def test_everything_is_as_before_after_every_end(forge: Any, error: Exception | None) -> None:
    host, outside = forge.application.open_host(None, "auto"), state(forge)

    class Ending(JobProgress):
        def step(self, text: str = "") -> None:
            if error is not None:
                raise error

    with contextlib.suppress(RuntimeError, Cancelled), host.ready():
        inside = state(forge)
        host.sample(SampleRequest(["a"], [0], 2, (64, 64)), Ending())
    assert inside[:4] == (inside[0], False, 1, False)
    assert inside[0] is not outside[0]
    assert inside[0].unet is forge.engine.forge_objects_original.unet
    assert state(forge) == outside
    assert forge.log.count("prepare") >= forge.log.count("cleanup") > 0
    assert forge.log[-1] == "empty"


def test_another_checkpoint_in_the_middle_ends_the_job(forge: Any) -> None:
    host, outside = forge.application.open_host(None, "auto"), state(forge)

    class Switching(JobProgress):
        def step(self, text: str = "") -> None:
            forge.modules["modules.sd_models"].model_data.sd_model = object()

    def run() -> None:
        with host.ready():
            host.sample(SampleRequest(["a"], [0], 3, (64, 64)), Switching())

    with pytest.raises((LoraclrError, AttributeError)) as caught:
        run()
    assert getattr(caught.value, "code", "") == "checkpoint-switched"
    assert state(forge) == outside


def test_a_checkpoint_that_is_chosen_but_not_loaded_is_described_from_its_file(forge: Any, tmp_path: Path) -> None:
    loaded, data = forge.application.model(), forge.modules["modules.sd_models"].model_data
    data.sd_model = SimpleNamespace()  # Forge's stand-in before the first picture
    chosen = forge.application.model()
    assert (chosen.name, chosen.family, chosen.native_size) == (loaded.name, loaded.family, loaded.native_size)
    data.sd_model = forge.engine
    other = SimpleNamespace(filename=str(tmp_path / "gone.safetensors"), sha256=None, name_for_extra="gone")
    data.forge_loading_parameters["checkpoint_info"] = other
    assert forge.application.model() is None
    data.forge_loading_parameters.clear()
    assert forge.application.model() == loaded


def test_a_replaced_file_is_merged_anew(forge: Any) -> None:
    forge.application.forget("x")
    original = forge.engine.forge_objects_original
    assert forge.engine.current_lora_hash == "replaced"
    assert original.unet.lora_loader.loaded_hash == original.clip.patcher.lora_loader.loaded_hash == "replaced"


def test_patchers_that_keep_their_backup_themselves(forge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, key = forge.engine, "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    unet, kept = engine.forge_objects_original.unet, torch.full((2, 2), 7.0)
    bare = SimpleNamespace(model=unet.model, load_device=unet.load_device, backup={key: SimpleNamespace(weight=kept)})
    other = LAYER.replace("attn1", "attn2")
    with monkeypatch.context() as patched:
        patched.setattr(engine.forge_objects_original, "unet", bare)
        host = forge.application.open_host(None, "auto")
        assert torch.equal(host.base_weight(LAYER), kept)
        assert torch.equal(host.base_weight(other), host.layers()[other].weight)
        forge.application.forget("x")
    assert engine.current_lora_hash == "replaced"


def test_what_cannot_be_captured_is_said(forge: Any) -> None:
    forge.engine.is_inpaint = True
    with pytest.raises(InputError, match="text to image"):
        forge.application.open_host(None, "auto")
    forge.modules["modules.sd_models"].model_data.sd_model = SimpleNamespace()
    with pytest.raises(InputError, match="No checkpoint"):
        forge.application.open_host(None, "auto")
