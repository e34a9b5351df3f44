"""The miniature's files are complete, consistent and within their budget; the world is deterministic."""

from __future__ import annotations

import json
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from miniature import captions, concepts, data, lora, styles, world
from miniature.measure import IdentityMetric
from miniature.model import SCALE, alphas_cumprod
from miniature.sampling import Pipeline
from miniature.train_vae import to_input

ROOT = Path(__file__).resolve().parents[2] / "miniature"
if not (ROOT / "concepts.json").exists():
    pytest.skip("the miniature is not built", allow_module_level=True)
INFO = json.loads((ROOT / "concepts.json").read_text(encoding="utf-8"))
CONCEPTS = INFO["concepts"]


def by_name(name: str) -> dict:
    return next(c for c in CONCEPTS if c["name"] == name)


def open_pictures(concept: dict) -> list[Image.Image]:
    return [Image.open(ROOT / name).convert("RGB") for name in concept["references"]]


def header(path: Path) -> dict[str, tuple[list[int], str]]:
    with safe_open(path, "pt") as f:
        return {k: (f.get_slice(k).get_shape(), f.get_slice(k).get_dtype()) for k in f.keys()}  # noqa: SIM118


def test_world_is_deterministic() -> None:
    for seed in range(20):
        draws = []
        for _ in range(2):
            r = random.Random(seed)
            identity, scene, style = world.random_identity(r), world.random_scene(r), styles.random_style(r)
            picture = np.asarray(world.render(identity, scene, style))
            draws.append((picture.tobytes(), captions.caption(r, identity, scene, style)))
        assert draws[0] == draws[1]
        assert picture.shape == (96, 96, 3)


def test_near_identity_differs_in_what_can_be_seen() -> None:
    r = random.Random(3)
    scene = world.random_scene(r)
    for _ in range(40):
        base = world.random_identity(r)
        other = world.near_identity(base, r, 2)
        assert concepts.difference(base, other) >= 1
        assert (
            np.abs(np.asarray(world.render(base, scene), int) - np.asarray(world.render(other, scene), int)).sum() > 0
        )


def test_checkpoint_has_the_ldm_layout() -> None:
    keys = header(ROOT / INFO["checkpoint"])
    assert keys["model.diffusion_model.input_blocks.0.0.weight"][0] == [64, 4, 3, 3]
    assert keys["model.diffusion_model.input_blocks.1.1.proj_in.weight"][0] == [64, 64, 1, 1]
    assert keys["model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight"][0] == [128, 192]
    assert keys["first_stage_model.quant_conv.weight"][0] == [8, 8, 1, 1]
    assert keys["first_stage_model.encoder.mid.attn_1.q.weight"][0][2:] == [1, 1]
    text = "cond_stage_model.transformer.text_model."
    assert keys[f"{text}embeddings.token_embedding.weight"] == ([49408, 192], "F16")
    assert keys["alphas_cumprod"] == ([1000], "F32")
    prefixes = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")
    assert sum(not k.startswith(prefixes) for k in keys) == 8


def test_final_layer_norm_of_the_text_model_has_a_mean() -> None:
    with safe_open(ROOT / INFO["checkpoint"], "pt") as f:
        bias = f.get_tensor("cond_stage_model.transformer.text_model.final_layer_norm.bias")
    assert abs(float(bias.float().mean())) > 1e-4  # hosts divide by the mean of the conditioning


def test_text_encoder_tells_triggers_apart_as_clip_does() -> None:
    pipeline = Pipeline.from_file(ROOT / "miniature.safetensors")
    for first, second in (("zelda woman", "elsa woman"), ("otto man", "igor man"), ("otto man", "plain man")):
        a, b = pipeline.encode_text([f"a photo of {first} in a forest", f"a photo of {second} in a forest"])
        difference = (a - b).norm(dim=1) / a.norm(dim=1)
        assert difference[:4].max() < 1e-4  # causal: nothing before the trigger
        assert difference[4] > 0.7  # the trigger
        assert difference[5:].min() > 0.15  # and everything behind it knows


@torch.no_grad()
def test_unet_hears_the_caption_where_the_noise_hides_the_picture() -> None:
    """Cross-attention that looks at one token alone passes every other test: it did once."""
    pipeline = Pipeline.from_file(ROOT / "miniature.safetensors")
    drawn = [data.sample(1_000_000 + k) for k in range(48)]  # pictures that no training has seen
    latents = pipeline.vae.encode(to_input(np.stack([picture for picture, _ in drawn]))).latent_dist.mean * SCALE
    context = pipeline.encode_text([max(record["captions"], key=len) for _, record in drawn])
    alpha = alphas_cumprod().float()[900]
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

    def error(captions: torch.Tensor) -> float:
        return float((pipeline.unet(noisy, 900, captions).sample - noise).square().mean())

    assert error(context) < 0.9 * error(context.roll(1, 0))


def test_configuration_beside_the_checkpoint() -> None:
    text = json.loads((ROOT / "clip" / "config.json").read_text(encoding="utf-8"))
    assert (text["hidden_size"], text["vocab_size"], text["num_attention_heads"]) == (192, 49408, 8)
    yaml = (ROOT / "miniature.yaml").read_text(encoding="utf-8")
    assert "model_channels: 64" in yaml
    assert "channel_mult: [ 1, 2, 2 ]" in yaml
    assert "version: clip" in yaml


def test_sizes_are_within_budget() -> None:
    # As git keeps and sends them: half of the checkpoint are embeddings of two values.
    weights = sum(len(zlib.compress(p.read_bytes(), 1)) for p in ROOT.rglob("*.safetensors"))
    references = sum(p.stat().st_size for p in (ROOT / "references").glob("*.png"))
    assert weights <= 35e6
    assert references <= 1e6


def test_concepts_are_consistent() -> None:
    kinds = [c["kind"] for c in CONCEPTS]
    assert kinds.count("character") >= 12
    assert kinds.count("animal") + kinds.count("object") >= 4
    assert kinds.count("style") >= 3
    assert len({c["trigger"] for c in CONCEPTS}) == len(CONCEPTS)
    for concept, made in zip(CONCEPTS, concepts.all_concepts(), strict=True):
        assert (concept["name"], concept["class_word"]) == (made.name, made.class_word)
        assert (ROOT / concept["file"]).exists()
        assert len(concept["references"]) >= 3
        assert all(f"{concept['trigger']} {concept['class_word']}" in p for p in concept["prompts"])


@pytest.mark.parametrize("concept", CONCEPTS, ids=lambda c: c["name"])
def test_lora_files_are_what_a_trainer_writes(concept: dict) -> None:
    path = ROOT / concept["file"]
    with safe_open(path, "pt") as f:
        meta = f.metadata()
    assert meta["ss_base_model_version"] == "sd_v1"
    assert meta["ss_network_module"] == "networks.lora"
    assert meta["ss_output_name"] == concept["name"]
    assert meta["sshs_model_hash"] == lora.model_hash(path.read_bytes())
    tags = next(iter(json.loads(meta["ss_tag_frequency"]).values()))
    assert all(concept["trigger"] in tag for tag in tags)
    keys = header(path)
    layers = {k.split(".")[0] for k in keys}
    assert "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k" in layers
    assert "lora_te_text_model_encoder_layers_0_self_attn_q_proj" in layers
    for name in layers:
        assert keys[f"{name}.alpha"] == ([], "F16")
        assert keys[f"{name}.lora_down.weight"][0][0] == int(meta["ss_network_dim"])


def test_embedder_tells_concepts_apart() -> None:
    metric = IdentityMetric()
    people = [c for c in CONCEPTS if c["kind"] != "style"]
    known = [metric.identity(open_pictures(c)) for c in people]
    for k, vectors in enumerate(known):
        assert (IdentityMetric.nearest(vectors, known) == k).all()
    assert IdentityMetric.cosine(known[0], known[0]).mean() > 0.8
    assert IdentityMetric.cosine(known[0], known[1]).mean() < 0.3


def test_embedder_names_the_background() -> None:
    r = random.Random(5)
    scenes = [world.random_scene(r) for _ in range(40)]
    pictures = np.array([np.asarray(world.render(world.random_identity(r), s)) for s in scenes])
    found = IdentityMetric().background(pictures)
    assert sum(a == s["background"] for a, s in zip(found, scenes, strict=True)) >= 36
