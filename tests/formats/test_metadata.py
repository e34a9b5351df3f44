"""Metadata, triggers, sidecar, family and the description of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from host_key_rules import a1111_version, forge_version
from safetensors.torch import save_file

from lib_loraclr.core.deltas import LayerShape, LowRank
from lib_loraclr.formats import (
    LoraFile,
    merged_metadata,
    read_lora,
    read_sidecar,
    recipe_of,
    write_lora,
    write_sidecar,
)
from lib_loraclr.formats.inspect import inspect
from lib_loraclr.formats.keys.family import family_of_metadata

K = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def lora(path: Path, *, key: str = K, width: int = 768, **metadata: str) -> LoraFile:
    tensors = {f"{key}.lora_up.weight": torch.ones(8, 2), f"{key}.lora_down.weight": torch.ones(2, width)}
    save_file(tensors, path, metadata or None)
    return read_lora(path)


# Family -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "family"), [(768, "sd1"), (1024, "sd2"), (2048, "sdxl")])
def test_family_from_the_width_of_the_context(width: int, family: str, tmp_path: Path) -> None:
    assert lora(tmp_path / "a.safetensors", width=width).family == family


@pytest.mark.parametrize(
    ("key", "width", "family"),
    [
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1", 1280, "sdxl"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q", 640, "sdxl"),
        ("lora_te_text_model_encoder_layers_0_self_attn_q_proj", 768, "sd1"),
        ("lora_te_text_model_encoder_layers_0_self_attn_q_proj", 1024, "sd2"),
        ("lora_te_text_model_encoder_layers_0_mlp_fc2", 3072, "unknown"),
        (K, 64, "sd1"),  # a narrow model of the first generation
        (K.replace("attn2_to_k", "attn1_to_q"), 320, "unknown"),  # SD1 and SD2 have the same
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", 768, "sd1"),
    ],
)
def test_family_from_names(key: str, width: int, family: str, tmp_path: Path) -> None:
    assert lora(tmp_path / "a.safetensors", key=key, width=width).family == family


@pytest.mark.parametrize(
    ("metadata", "family"),
    [
        ({"ss_base_model_version": "sd_v1"}, "sd1"),
        ({"ss_base_model_version": "sd_v2_v"}, "sd2"),
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ({"ss_v2": "True"}, "sd2"),
        ({"modelspec.architecture": "stable-diffusion-v1/lora"}, "sd1"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, "sd2"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "sdxl"),
        ({"ss_base_model_version": "flux1"}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_family_from_metadata(metadata: dict[str, str], family: str) -> None:
    assert family_of_metadata(metadata) == family


def test_shapes_win_over_metadata_and_say_so(tmp_path: Path) -> None:
    file = lora(tmp_path / "a.safetensors", width=1024, ss_base_model_version="sd_v1")
    assert file.family == "sd2"
    assert [warning.code for warning in file.warnings] == ["family-conflict"]
    narrow = lora(tmp_path / "a.safetensors", width=64, ss_base_model_version="sd_v2")
    assert (narrow.family, narrow.warnings) == ("sd2", ())


# Triggers and sidecar -----------------------------------------------------------------------------------------------

TAGS = json.dumps({"10_bob": {"bob": 12, "smile": 12, "tree": 3}, "5_x": {"tree": 1}, "bad": 3})


def test_triggers_come_from_user_then_author_then_tags(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    assert lora(path).triggers == ()
    assert lora(path, ss_tag_frequency=TAGS).triggers == ("bob",)
    metadata = {"ss_tag_frequency": TAGS, "modelspec.trigger_phrase": "bob man"}
    assert lora(path, **metadata).triggers == ("bob man",)
    (tmp_path / "a.json").write_text(json.dumps({"activation text": " my bob "}), encoding="utf-8")
    assert lora(path, **metadata).triggers == ("my bob",)
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    assert lora(path, **metadata).triggers == ("bob man",)
    assert lora(path, ss_tag_frequency="[1]").triggers == ()


@pytest.mark.parametrize(
    ("folders", "trigger"),
    [
        ({"12_bob man": {"a photo of bob man": 20, "photo": 20}}, "bob man"),
        ({"10_images": {"1girl": 30, "solo": 29, "zelda": 28, "tree": 2}}, "zelda"),
        ({"10_images": {"1girl": 30, "solo": 29}}, ""),
        ({"3_": {"": 9, "style x": 2}}, "style x"),
    ],
)
def test_trigger_from_training_captions(folders: dict[str, dict[str, int]], trigger: str, tmp_path: Path) -> None:
    file = lora(tmp_path / "a.safetensors", ss_tag_frequency=json.dumps(folders))
    assert file.triggers == ((trigger,) if trigger else ())


def test_sidecar_is_what_hosts_read_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "merged.v1.safetensors"
    written = write_sidecar(path, ["zoë man", "", "ann"], weight=0.8, family="sdxl")
    assert written == tmp_path / "merged.v1.json"
    text = written.read_text(encoding="utf-8")
    assert "zoë" in text
    assert text.startswith('{\n    "description"')
    assert read_sidecar(path) == {
        "description": "",
        "sd version": "SDXL",
        "activation text": "zoë man, ann",
        "preferred weight": 0.8,
        "negative text": "",
        "notes": "",
    }
    written.write_text("{}", encoding="utf-8")
    assert write_sidecar(path, ["new"]) is None
    assert read_sidecar(path) == {}
    assert write_sidecar(path, ["new"], overwrite=True) == written
    assert [item.name for item in tmp_path.iterdir()] == ["merged.v1.json"]


# Merged metadata ----------------------------------------------------------------------------------------------------


def inputs(folder: Path) -> list[LoraFile]:
    common = {"ss_base_model_version": "sd_v1", "modelspec.license": "CC0"}
    first = lora(folder / "bob.safetensors", ss_tag_frequency=TAGS, sshs_model_hash="stale", **common)
    tags = json.dumps({"1": {f"tag{i}": i for i in range(300)}})
    return [first, lora(folder / "ann.safetensors", ss_tag_frequency=tags, **common)]


def test_merged_metadata(tmp_path: Path) -> None:
    files = inputs(tmp_path)
    recipe: dict[str, Any] = {
        "method": "contrastive",
        "options": {"margin": 1.2},
        "inputs": [{"weight": 0.5, "trigger": "bobby", "fidelity": {"kept": 0.9}}, {"weight": 1.0, "trigger": None}],
    }
    found = merged_metadata("both", "sd1", files, recipe)
    assert all(isinstance(value, str) for value in found.values())
    assert found == merged_metadata("both", "sd1", files, recipe)
    assert found["ss_output_name"] == found["modelspec.title"] == "both"
    assert found["ss_base_model_version"] == "sd_v1"
    assert found["ss_v2"] == "False"
    assert found["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert found["modelspec.merged_from"] == "bob, ann"
    assert found["modelspec.trigger_phrase"] == "bobby, tag299"
    assert found["modelspec.license"] == "CC0"
    assert "sshs_model_hash" not in found
    assert not [key for key in found if "date" in key or "time" in key]
    tags = json.loads(found["ss_tag_frequency"])
    assert tags["bob"] == {"bob": 12, "smile": 12, "tree": 4}
    assert len(tags["ann"]) == 50
    stored = recipe_of(found)
    assert stored
    assert stored["options"] == {"margin": 1.2}
    assert stored["inputs"][0] == {
        "name": "bob", "sha256": files[0].sha256, "types": ["lora"], "weight": 0.5, "trigger": "bobby",
        "fidelity": {"kept": 0.9},
    }  # fmt: skip
    assert stored["inputs"][1]["trigger"] == "tag299"
    assert recipe_of({}) is None
    assert recipe_of({"loraclr_recipe": "[]"}) is None


@pytest.mark.parametrize(
    ("family", "said", "expected", "architecture", "card"),
    [
        ("sd1", "", "sd_v1", "stable-diffusion-v1/lora", "SD1"),
        ("sd2", "sd_v2_v", "sd_v2_v", "stable-diffusion-v2-768-v/lora", "SD2"),
        ("sd2", "", "sd_v2", "stable-diffusion-v2-512/lora", "SD2"),
        ("sdxl", "sdxl_base_v0-9", "sdxl_base_v0-9", "stable-diffusion-xl-v1-base/lora", "SDXL"),
        ("sdxl", "sd_v1", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", "SDXL"),
    ],
)
def test_family_keys(family: str, said: str, expected: str, architecture: str, card: str, tmp_path: Path) -> None:
    file = lora(tmp_path / "a.safetensors", ss_base_model_version=said)
    found = merged_metadata("m", family, [file], {})
    assert found["ss_base_model_version"] == expected
    assert found["modelspec.architecture"] == architecture
    assert a1111_version(found) == forge_version(found) == card


def test_inspect_describes_a_merged_file(tmp_path: Path) -> None:
    files = inputs(tmp_path)
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    path = tmp_path / "both.safetensors"
    written = write_lora(
        path,
        {name: LowRank(torch.ones(8, 2), torch.ones(2, 768))},
        {name: LayerShape(8, 768)},
        family="sd1",
        dtype="fp16",
        metadata=merged_metadata("both", "sd1", files, {"method": "sum"}),
    )
    found = inspect(path).as_dict()
    assert json.loads(json.dumps(found)) == found
    wanted = {"ok": True, "file": str(path), "types": ["lora"], "family": "sd1", "layers": {"unet": 1},
              "ranks": {"2": 1},
              "triggers": ["bob, tag299"], "sha256": written.sha256, "bytes": written.bytes, "warnings": [],
              "needs_checkpoint": False, "embeddings": []}  # fmt: skip
    assert {key: found[key] for key in wanted} == wanted
    assert found["recipe"]["method"] == "sum"
    assert found["frequent_tags"][0] == "tag299"
