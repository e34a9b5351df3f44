"""The A1111 adapter around stand-ins for its modules: same numbers as the standalone host, everything as before."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lib_loraclr.app.jobs import JobProgress
from lib_loraclr.capture import CaptureSettings, Concept, TensorCache, capture
from lib_loraclr.core.deltas import LowRank
from lib_loraclr.core.errors import Cancelled, InputError, LoraclrError
from lib_loraclr.hosts.standalone import StandaloneHost
from lib_loraclr.model import Phase, SampleRequest

SPEC = importlib.util.spec_from_file_location("standin", Path(__file__).with_name("standin.py"))
standin = importlib.util.module_from_spec(SPEC)
sys.modules["standin"] = standin
SPEC.loader.exec_module(standin)
LAYER = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture
def webui(plain: StandaloneHost, tiny_sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A WebUI with the checkpoint loaded, and the application on it."""
    model = standin.Model(plain, tiny_sd1)
    made = standin.build(model, tmp_path)
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
    ours = [name for name in sys.modules if name.startswith("lib_loraclr.hosts.webui")]
    for name in ours:
        monkeypatch.delitem(sys.modules, name)
    family = importlib.import_module("lib_loraclr.hosts.webui.a1111.host").A1111
    application = importlib.import_module("lib_loraclr.hosts.webui.application").WebuiApplication(family)
    yield SimpleNamespace(application=application, model=model, folder=tmp_path, **{
        name.rpartition(".")[2]: module for name, module in made.items()
    })  # fmt: skip
    for layer in model.network_layer_mapping.values():
        for name in ("network_current_names", "network_weights_backup"):
            layer.__dict__.pop(name, None)
    for name in [one for one in sys.modules if one.startswith("lib_loraclr.hosts.webui")]:
        del sys.modules[name]


def test_layers_have_the_standalone_host_s_names_and_weights(webui: Any, plain: StandaloneHost) -> None:
    host = webui.application.open_host(None, "auto")
    assert set(host.layers()) == set(plain.layers())
    for name, module in plain.layers().items():
        assert host.layers()[name] is module
    assert torch.equal(host.base_weight(LAYER), plain.base_weight(LAYER))
    assert host.info.sha256 == plain.info.sha256
    assert (host.info.name, host.info.family, host.info.native_size) == ("tiny_sd1", "sd1", 64)


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_sampling_gives_the_standalone_host_s_latents(webui: Any, plain: StandaloneHost, cfg: float) -> None:
    host = webui.application.open_host(None, "auto")
    request = SampleRequest(["a cat", "a dog on a chair"], [3, 4], 3, (64, 64), cfg, "ugly")
    state = torch.get_rng_state()
    with host.ready():
        latents = host.sample(request)
        pictures = host.decode(latents)
    assert torch.equal(state, torch.get_rng_state())
    with plain.ready():
        assert (latents - plain.sample(request)).abs().max() < 1e-4
        assert (pictures.int() - plain.decode(latents).int()).abs().max() <= 1
    assert set(webui.model.rows) == {2 if cfg == 1.0 else 4}


@pytest.mark.parametrize("lowvram", [False, True])
def test_gradients_are_the_standalone_host_s(webui: Any, plain: StandaloneHost, beside: Any, lowvram: bool) -> None:
    webui.model.lowvram = lowvram
    beside("gradient_checks").check(lambda: webui.application.open_host(None, "auto"), plain)


def test_statistics_equal_the_standalone_host_s(webui: Any, plain: StandaloneHost, tmp_path: Path) -> None:
    values = torch.Generator().manual_seed(0)
    names = [LAYER, "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
             "text_encoder.text_model.encoder.layers.1.mlp.fc1"]  # fmt: skip

    def lora() -> dict[str, LowRank]:
        shapes = {name: plain.layers()[name].weight.shape for name in names}
        return {
            name: LowRank(0.3 * torch.randn(s[0], 2, generator=values), 0.3 * torch.randn(2, s[1], generator=values))
            for name, s in shapes.items()
        }

    concepts = [Concept("a", "sks cat", "cat", lora()), Concept("b", "xyz dog", "dog", lora())]
    settings = CaptureSettings(steps=2, prompts=1, neutral_prompts=1, size=(64, 64))
    found = []
    for number, host in enumerate((webui.application.open_host(None, "auto"), plain)):
        with host.ready():
            found.append(capture(host, concepts, settings, cache=TensorCache(tmp_path / str(number))))
    assert set(found[0]) == set(found[1]) == set(names)
    for name in names:
        for ours, theirs in zip(found[0][name].concepts, found[1][name].concepts, strict=True):
            expected = theirs.mean()
            assert ours.rows == theirs.rows, name
            assert (ours.mean() - expected).abs().max() <= 1e-4 * expected.abs().max(), name


def test_loras_tiling_and_hypernetworks_are_off_inside_and_as_before_outside(webui: Any) -> None:
    host = webui.application.open_host(None, "auto")
    layer, before = host.layers()[LAYER], host.base_weight(LAYER)
    webui.networks.loaded_networks.append(SimpleNamespace(name="x", strength=0.25))
    with torch.no_grad():
        webui.networks.network_apply_weights(layer)
    patched = layer.weight.detach().clone()
    assert not torch.equal(patched, before)

    def look() -> tuple[Any, ...]:
        hijack = webui.sd_hijack.model_hijack
        return (layer.weight.detach().clone(), list(webui.networks.loaded_networks), layer.network_current_names,
                hijack.circular_enabled, list(webui.shared.loaded_hypernetworks), torch.is_grad_enabled(),
                sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in webui.model.modules()))  # fmt: skip

    outside = look()
    for error in (None, RuntimeError("sampling failed"), Cancelled()):
        try:
            with host.ready():
                inside = look()
                assert torch.equal(inside[0], before)
                assert torch.equal(host.base_weight(LAYER), before)
                assert inside[1:6] == ([], (), False, [], False)
                if error is not None:
                    host.encode(["a cat"])
                    raise error
        except (RuntimeError, Cancelled):
            pass
        after = look()
        assert torch.equal(after[0], outside[0])
        assert after[1:] == outside[1:]
    assert torch.equal(host.base_weight(LAYER), before)
    with torch.no_grad():
        layer.weight.copy_(before)


def test_another_checkpoint_in_the_middle_ends_the_job(webui: Any) -> None:
    host = webui.application.open_host(None, "auto")

    class Switching(JobProgress):
        def step(self, text: str = "") -> None:
            webui.model.sd_checkpoint_info = SimpleNamespace(filename="", sha256="", name_for_extra="other")

    old = webui.model.sd_checkpoint_info
    try:
        with host.ready(), pytest.raises(LoraclrError) as error:
            host.sample(SampleRequest(["a"], [0], 3, (64, 64)), Switching())
        assert error.value.code == "checkpoint-switched"
    finally:
        webui.model.sd_checkpoint_info = old


def test_what_cannot_be_captured_is_said(webui: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webui.sd_unet, "current_unet", object())
    with pytest.raises(InputError, match="SD Unet"):
        webui.application.open_host(None, "auto")
    monkeypatch.setattr(webui.sd_unet, "current_unet", None)
    monkeypatch.setattr(standin.Model, "is_sd1", False)
    with pytest.raises(InputError, match="neither SD1"):
        webui.application.open_host(None, "auto")
    monkeypatch.setattr(webui.shared, "sd_model", None)
    with pytest.raises(InputError) as error:
        webui.application.open_host(None, "auto")
    assert error.value.code == "no-checkpoint"


def test_the_bar_moves_and_the_interrupt_button_cancels(webui: Any) -> None:
    state, queue = webui.shared.state, webui.call_queue.queue_lock
    with webui.application.jobs.scope("Merge", "task(a)", [(Phase.WATCH, 3.0), (Phase.SOLVE, 1.0)]) as progress:
        assert queue.locked()
        progress.phase(Phase.WATCH, 2)
        progress.step("anna")
        assert state.sampling_step / state.sampling_steps / state.job_count == pytest.approx(3 / 8)
        assert state.textinfo == "Watching the model 1/2: anna"
        assert webui.application.jobs.state("task(a)").state == "running"
        state.interrupted = True
        with pytest.raises(Cancelled):
            progress.step()
    assert not queue.locked()
    assert state.jobs == ["task(a)", None]
    assert not state.interrupted
    assert webui.application.jobs.state("task(a)").state == "done"


def test_a_job_waits_for_what_the_webui_generates_and_leaves_its_queue_when_cancelled(webui: Any) -> None:
    ended: list[str] = []

    def run() -> None:
        try:
            with webui.application.jobs.scope("Merge", "task(b)"):
                ended.append("ran")
        except Cancelled:
            ended.append("cancelled")

    with webui.call_queue.queue_lock:
        thread = threading.Thread(target=run)
        thread.start()
        while webui.application.jobs.state("task(b)").state != "waiting":
            pass
        assert webui.application.jobs.cancel("task(b)")
    thread.join(20)
    assert ended == ["cancelled"]
    assert webui.progress.pending_tasks == {}


def test_the_folder_is_shown_unless_the_webui_hides_such_buttons(webui: Any) -> None:
    shown = webui.util.shown
    webui.application.open_folder()
    assert shown == [str(webui.folder)]
    webui.shared.cmd_opts.hide_ui_dir_config = True
    assert webui.application.open_folder is None


def test_nobody_sees_the_catalogue_half_read(webui: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A1111 empties its list and fills it again; another request may ask in the meantime."""
    networks, emptied, asked = webui.networks, threading.Event(), threading.Event()
    (webui.folder / "x.safetensors").write_bytes(b"")
    whole = [entry.name for entry in webui.application.catalogue.entries()]
    assert whole == ["x"]

    def slowly() -> None:
        found, networks.available_networks = networks.available_networks, {}
        emptied.set()
        asked.wait(0.2)  # longer than anybody needs who does not wait
        networks.available_networks = found

    monkeypatch.setattr(networks, "list_available_networks", slowly)
    writing = threading.Thread(target=webui.application.catalogue.written, args=(webui.folder / "x.safetensors",))
    writing.start()
    assert emptied.wait(10)
    seen = [entry.name for entry in webui.application.catalogue.entries()]
    asked.set()
    writing.join()
    assert seen == whole


def test_the_catalogue_is_the_extension_s_and_a_replaced_file_is_forgotten(webui: Any) -> None:
    from safetensors.torch import save_file

    path = webui.folder / "x.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    (webui.folder / "old.ckpt").write_bytes(b"")
    (webui.folder / "x.json").write_text('{"activation text": "sks"}')
    entries = webui.application.catalogue.entries()
    assert [(entry.name, entry.user_metadata["activation text"]) for entry in entries] == [("x", "sks")]
    network = SimpleNamespace(name="x", strength=0.5)
    layer = webui.model.network_layer_mapping["diffusion_model_input_blocks_0_0"]
    base = layer.weight.detach().clone()
    webui.networks.loaded_networks.append(network)
    webui.networks.networks_in_memory["x"] = network
    with torch.no_grad():
        webui.networks.network_apply_weights(layer)
    webui.application.catalogue.written(path)
    assert webui.networks.networks_in_memory == {}
    assert webui.processing.StableDiffusionProcessing.cached_c == [None, None]
    assert webui.processing.StableDiffusionProcessingTxt2Img.cached_hr_c == [None, None, None]
    changed = SimpleNamespace(name="x", strength=0.5)  # the same name and weight: the host would not look again
    layer.network_weights_backup += 0
    webui.networks.loaded_networks[:] = [changed]
    assert layer.network_current_names != (("x", 0.5),)
    webui.networks.loaded_networks.clear()
    with torch.no_grad():
        webui.networks.network_apply_weights(layer)
    assert torch.equal(layer.weight, base)
