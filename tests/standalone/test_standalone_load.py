"""Loading single-file checkpoints: layer names, weights, sizes from yaml or shapes, and every wrong input."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_loraclr.core.errors import InputError
from lib_loraclr.hosts.standalone import load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
Edit = Callable[[dict[str, torch.Tensor]], None]


def edited(source: Path, target: Path, edit: Edit, yaml: str | None = None) -> Path:
    """A copy of a checkpoint after `edit`, with a yaml of its own or none."""
    tensors = load_file(source)
    edit(tensors)
    save_file(tensors, target)
    if yaml is not None:
        target.with_suffix(".yaml").write_text(yaml)
    return target


def test_sd1_weights_lie_where_the_original_layout_says(tiny_sd1: Path) -> None:
    host, file = load_checkpoint(tiny_sd1), load_file(tiny_sd1)
    unet, clip = "model.diffusion_model.", "cond_stage_model.transformer.text_model."
    expected = {
        "unet.conv_in": unet + "input_blocks.0.0",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": unet
        + "input_blocks.1.1.transformer_blocks.0.attn1.to_q",
        "unet.down_blocks.1.attentions.0.proj_in": unet + "input_blocks.3.1.proj_in",
        "unet.down_blocks.1.downsamplers.0.conv": unet + "input_blocks.4.0.op",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v": unet
        + "middle_block.1.transformer_blocks.0.attn2.to_v",
        "unet.up_blocks.0.upsamplers.0.conv": unet + "output_blocks.1.1.conv",
        "unet.up_blocks.2.resnets.1.conv_shortcut": unet + "output_blocks.5.0.skip_connection",
        "text_encoder.text_model.encoder.layers.1.mlp.fc1": clip + "encoder.layers.1.mlp.fc1",
    }
    for name, key in expected.items():
        assert torch.equal(host.base_weight(name), file[key + ".weight"]), name
    info = host.info
    assert (info.family, info.native_size, host.prediction, info.name) == ("sd1", 64, "epsilon", "tiny_sd1")
    in_file = sum(
        v.ndim in (2, 4) and k.endswith(".weight") and "embedding" not in k and not k.startswith("first_stage_model")
        for k, v in file.items()
    )
    assert len(host.layers()) == in_file


def test_sd2_splits_fused_attention_and_drops_the_unused_last_layer(tiny_sd2: Path) -> None:
    host, file = load_checkpoint(tiny_sd2), load_file(tiny_sd2)
    fused = file["cond_stage_model.model.transformer.resblocks.1.attn.in_proj_weight"]
    for number, name in enumerate(("q_proj", "k_proj", "v_proj")):
        ours = host.base_weight(f"text_encoder.text_model.encoder.layers.1.self_attn.{name}")
        assert torch.equal(ours, fused[64 * number : 64 * (number + 1)])
    assert "text_encoder.text_model.encoder.layers.2.mlp.fc1" not in host.layers()
    assert (host.info.family, host.prediction) == ("sd2", "v")
    assert host.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1.heads == 4  # num_head_channels 16


def test_sdxl_sizes_come_from_shapes_without_a_yaml(tiny_sdxl: Path) -> None:
    host, file = load_checkpoint(tiny_sdxl), load_file(tiny_sdxl)
    assert (host.info.family, host.info.native_size, host.prediction) == ("sdxl", 1024, "epsilon")
    projection = file["conditioner.embedders.1.model.text_projection"]
    assert torch.equal(host.base_weight("text_encoder_2.text_projection"), projection.T)
    assert "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k" in host.layers()
    assert host.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1.heads == 2  # heads of 64 channels


def test_layers_are_hookable_and_base_weight_is_a_copy(tiny_sd1: Path) -> None:
    host = load_checkpoint(tiny_sd1)
    name = "unet.mid_block.attentions.0.proj_in"
    copy = host.base_weight(name)
    copy.zero_()
    assert host.layers()[name].weight.abs().sum() > 0
    with pytest.raises(InputError, match=r"no layer unet\.nowhere") as caught:
        host.base_weight("unet.nowhere")
    assert caught.value.key == "unet.nowhere"


def test_half_precision_leaves_the_vae_in_float32(tiny_sd1: Path) -> None:
    host = load_checkpoint(tiny_sd1, dtype="bf16")
    assert host.info.dtype == torch.bfloat16
    assert {p.dtype for p in host.vae.parameters()} == {torch.float32}
    assert host.base_weight("unet.conv_in").dtype == torch.float32


def test_loading_leaves_global_random_numbers_and_grad_mode_alone(tiny_sd1: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    load_checkpoint(tiny_sd1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.is_grad_enabled()


def test_lora_given_as_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "elsa.safetensors"
    save_file({"lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(InputError, match=r"elsa\.safetensors is a LoRA") as caught:
        load_checkpoint(path)
    assert (caught.value.code, caught.value.file) == ("lora-as-checkpoint", "elsa.safetensors")


def test_file_without_a_unet(tmp_path: Path) -> None:
    path = tmp_path / "vae.safetensors"
    save_file({"first_stage_model.decoder.conv_in.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(
        InputError, match=r"vae\.safetensors is not a single-file Stable Diffusion checkpoint"
    ) as caught:
        load_checkpoint(path)
    assert caught.value.code == "not-a-checkpoint"


def test_checkpoint_without_text_encoder(tiny_sd1: Path, tmp_path: Path) -> None:
    def remove(tensors: dict[str, torch.Tensor]) -> None:
        for key in [key for key in tensors if key.startswith("cond_stage_model.")]:
            del tensors[key]

    with pytest.raises(InputError, match="no text encoder") as caught:
        load_checkpoint(edited(tiny_sd1, tmp_path / "a.safetensors", remove))
    assert caught.value.code == "unsupported-checkpoint"


@pytest.mark.parametrize("kept", [5, 4000, 300_000])
def test_truncated_file(tiny_sd1: Path, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(tiny_sd1.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"cut\.safetensors"):
        load_checkpoint(path)


def test_missing_file_and_pickle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.safetensors"):
        load_checkpoint(tmp_path / "gone.safetensors")
    torch.save({"state_dict": {}}, tmp_path / "old.ckpt")
    with pytest.raises(InputError, match=r"old\.ckpt"):
        load_checkpoint(tmp_path / "old.ckpt")


def test_missing_tensor_is_named(tiny_sd1: Path, tmp_path: Path) -> None:
    key = "model.diffusion_model.middle_block.0.out_layers.3.weight"
    path = edited(tiny_sd1, tmp_path / "b.safetensors", lambda tensors: tensors.__delitem__(key))
    with pytest.raises(InputError, match=r"b\.safetensors lacks mid_block\.resnets\.0\.conv2\.weight") as caught:
        load_checkpoint(path)
    assert caught.value.key == "mid_block.resnets.0.conv2.weight"


def test_tensor_of_another_shape_is_named(tiny_sd1: Path, tmp_path: Path) -> None:
    def widen(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.diffusion_model.middle_block.1.proj_out.weight"] = torch.zeros(64, 96, 1, 1)

    with pytest.raises(InputError, match=r"mid_block\.attentions\.0\.proj_out\.weight.*\(64, 96, 1, 1\)") as caught:
        load_checkpoint(edited(tiny_sd1, tmp_path / "c.safetensors", widen))
    assert caught.value.code == "config-mismatch"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("model_channels: 32", "model_channels: 320", "says model_channels 320, but tiny.safetensors has 32"),
        ("channel_mult: [1, 2, 2]", "channel_mult: [1, 2]", r"says channel_mult \[1, 2\]"),
        ("context_dim: 32", "context_dim: 768", "says context_dim 768"),
        ("num_res_blocks: 1", "num_res_blocks: 2", "says num_res_blocks 2"),
    ],
)
def test_yaml_of_another_checkpoint(tiny_sd1: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    yaml = tiny_sd1.with_suffix(".yaml").read_text()
    assert old in yaml
    path = edited(tiny_sd1, tmp_path / "tiny.safetensors", lambda _: None, yaml.replace(old, new))
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint(path)
    assert caught.value.file == "tiny.safetensors"
    assert caught.value.key


@pytest.mark.parametrize("content", ["- a list", "model: 3", "a: [unclosed"])
def test_yaml_that_is_no_configuration(tiny_sd1: Path, tmp_path: Path, content: str) -> None:
    path = edited(tiny_sd1, tmp_path / "d.safetensors", lambda _: None, content)
    with pytest.raises(InputError, match=r"d\.yaml") as caught:
        load_checkpoint(path)
    assert caught.value.code == "unreadable-config"


def test_number_of_text_heads_from_the_folder_that_the_yaml_names(tiny_sd1: Path, tmp_path: Path) -> None:
    yaml = tiny_sd1.with_suffix(".yaml").read_text()
    yaml += "    cond_stage_config:\n      params:\n        version: narrow_clip\n"
    (tmp_path / "narrow_clip").mkdir()
    (tmp_path / "narrow_clip" / "config.json").write_text('{"num_attention_heads": 2}')
    host = load_checkpoint(edited(tiny_sd1, tmp_path / "e.safetensors", lambda _: None, yaml))
    assert host.text.encoders[0].config.num_attention_heads == 2
    assert load_checkpoint(tiny_sd1).text.encoders[0].config.num_attention_heads == 8


def test_without_diffusers_one_clear_sentence(tiny_sd1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match="needs the package diffusers") as caught:
        load_checkpoint(tiny_sd1)
    assert caught.value.code == "missing-dependency"


def test_sd2_without_yaml_is_asked_what_it_predicts(tiny_sd2: Path, tmp_path: Path) -> None:
    path = edited(tiny_sd2, tmp_path / "f.safetensors", lambda _: None)
    host = load_checkpoint(path)
    call, noises = host._unet, []

    def echo(latents: torch.Tensor, *_: object) -> torch.Tensor:
        noises.append(latents)
        return latents * 3

    host._unet = echo  # type: ignore[method-assign]
    assert host._ask_prediction() == "epsilon"
    host._unet = lambda latents, *_: torch.ones_like(latents)  # type: ignore[method-assign]
    assert host._ask_prediction() == "v"
    assert len(noises) == 1
    host._unet = call  # type: ignore[method-assign]
    assert load_checkpoint(path, prediction="epsilon").prediction == "epsilon"


def test_loading_prints_no_warnings_of_others(tiny_sd1: Path) -> None:
    code = f"from lib_loraclr.hosts.standalone import load_checkpoint; load_checkpoint({str(tiny_sd1)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
