"""Kohya files written by hand with known numbers, ED-LoRA, cloneofsimo, old GLoRA and OFT, mixtures, vectors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from format_models import UNET_CONFIGS, unet
from safetensors.torch import save_file
from torch import Tensor, nn

from lib_loraclr.core.deltas import Dense, LayerShape, LowRank
from lib_loraclr.core.errors import InputError
from lib_loraclr.formats import LoraFile, read_lora

TO_Q = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
NAME = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def saved(folder: Path, tensors: dict[str, Tensor], **metadata: str) -> LoraFile:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "a.safetensors", metadata or None)
    return read_lora(folder / "a.safetensors")


def test_kohya_numbers_by_hand(tmp_path: Path) -> None:
    up, down = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0, 2.0], [3.0, 1.0, 0.0]])
    key = f"lora_unet_{TO_Q}"
    tensors = {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down, f"{key}.alpha": torch.tensor(1.0)}
    update = saved(tmp_path, tensors).layers[NAME]
    assert torch.equal(update.delta().dense(), torch.tensor([[3.5, 1.0, 1.0], [1.5, 0.5, 0.0]]))  # alpha / rank = 1/2
    assert (update.kind, update.rank, update.size, update.needs_base) == ("lora", 2, (2, 3), False)
    del tensors[f"{key}.alpha"]
    assert torch.equal(saved(tmp_path, tensors).layers[NAME].delta().dense(), up @ down)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn])
def test_stored_dtypes_come_out_as_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    key = f"lora_unet_{TO_Q}"
    up, down = torch.tensor([[1.5], [-2.0]]).to(dtype), torch.tensor([[0.25, 1.0, -3.0]]).to(dtype)
    update = saved(tmp_path, {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}).layers[NAME]
    delta = update.delta()
    assert delta.dense().dtype == torch.float32
    assert torch.equal(delta.dense(), torch.tensor([[0.375, 1.5, -4.5], [-0.5, -2.0, 6.0]]))


def test_locon_unfolds_and_runs_as_convolution(tmp_path: Path) -> None:
    torch.manual_seed(0)
    key = "lora_unet_down_blocks_0_resnets_0_conv1"
    down, up = nn.Conv2d(6, 3, 3, padding=1, bias=False), nn.Conv2d(3, 8, 1, bias=False)
    tensors = {f"{key}.lora_up.weight": up.weight.data, f"{key}.lora_down.weight": down.weight.data}
    file = saved(tmp_path, tensors | {f"{key}.alpha": torch.tensor(3.0)})
    update = file.layers["unet.down_blocks.0.resnets.0.conv1"]
    assert (update.kind, update.size) == ("locon", (8, 54))
    pixels = torch.randn(2, 6, 5, 5)
    ours = nn.functional.conv2d(pixels, update.delta().dense().reshape(8, 6, 3, 3), padding=1)
    assert torch.allclose(ours, up(down(pixels)), atol=1e-5)


def test_factored_families_stay_factored_where_that_is_smaller(tmp_path: Path) -> None:
    r = torch.randn
    loha = {"hada_w1_a": r(64, 2), "hada_w1_b": r(2, 64), "hada_w2_a": r(64, 2), "hada_w2_b": r(2, 64)}
    lokr = {"lokr_w1": r(4, 4), "lokr_w2_a": r(16, 2), "lokr_w2_b": r(2, 16)}
    big = {"hada_w1_a": r(64, 8), "hada_w1_b": r(8, 64), "hada_w2_a": r(64, 8), "hada_w2_b": r(8, 64)}
    parts = {"to_q": loha, "to_k": lokr, "to_v": big}
    base = f"lora_unet_{TO_Q.removesuffix('to_q')}"
    file = saved(tmp_path, {f"{base}{n}.{k}": t for n, tensors in parts.items() for k, t in tensors.items()})
    deltas = {name[-4:]: update.delta() for name, update in file.layers.items()}
    assert [(kind, type(deltas[kind]), deltas[kind].rank) for kind in ("to_q", "to_k", "to_v")] == [
        ("to_q", LowRank, 4),
        ("to_k", LowRank, 8),
        ("to_v", Dense, 64),
    ]


def test_any_mixture_in_one_file(tmp_path: Path) -> None:
    r = torch.randn
    block = "lora_unet_down_blocks_0_attentions_0_"
    tensors = {
        f"{block}transformer_blocks_0_attn1_to_q.lora_up.weight": r(8, 2),
        f"{block}transformer_blocks_0_attn1_to_q.lora_down.weight": r(2, 8),
        f"{block}transformer_blocks_0_attn1_to_k.lokr_w1": r(2, 2),
        f"{block}transformer_blocks_0_attn1_to_k.lokr_w2": r(4, 4),
        f"{block}transformer_blocks_0_norm1.w_norm": torch.tensor([1.0, 2.0]),
        f"{block}transformer_blocks_0_norm1.b_norm": torch.tensor([3.0, 4.0]),
        f"{block}proj_in.diff": r(8, 8, 1, 1),
        f"{block}proj_in.diff_b": torch.tensor([5.0]),
        "unet.mid_block.attentions.0.proj_in.lora_A.weight": r(2, 8),
        "unet.mid_block.attentions.0.proj_in.lora_B.weight": r(8, 2),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.on_input": torch.tensor(0),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.weight": r(8),
        "bundle_emb.bob.emb_params": r(2, 8),
        "something.else": r(1),
    }
    file = saved(tmp_path, tensors)
    assert file.types == ("full", "ia3", "lokr", "lora")
    assert len(file.layers) == 5
    path = "unet.down_blocks.0.attentions.0"
    assert {name: tensor.tolist() for name, tensor in file.vectors.items()} == {
        f"{path}.transformer_blocks.0.norm1.weight": [1.0, 2.0],
        f"{path}.transformer_blocks.0.norm1.bias": [3.0, 4.0],
        f"{path}.proj_in.bias": [5.0],
    }
    assert list(file.embeddings) == ["bob.emb_params"]
    assert [(warning.code, warning.key) for warning in file.warnings] == [
        ("unknown-key", "something.else"),
        ("bundled-embeddings", None),
    ]


@pytest.mark.parametrize(("rank", "size"), [(2, (8, 8)), (3, (12, 6))])
def test_old_glora_swaps_the_factors(rank: int, size: tuple[int, int], tmp_path: Path) -> None:
    out, inputs = size
    torch.manual_seed(0)
    base = torch.randn(out, inputs)
    a_up, a_down, b_up, b_down = (torch.randn(s) for s in ((inputs, rank), (rank, inputs), (out, rank), (rank, inputs)))
    expected = (base @ a_up @ a_down + b_up @ b_down) * 5 / rank
    for names in (("a1", "a2", "b1", "b2"), ("a2", "a1", "b2", "b1")):
        parts = dict(zip(names, (a_up, a_down, b_up, b_down), strict=True))
        tensors = {f"lora_unet_{TO_Q}.{name}.weight": tensor for name, tensor in parts.items()}
        update = saved(tmp_path, tensors | {f"lora_unet_{TO_Q}.alpha": torch.tensor(5.0)}).layers[NAME]
        assert torch.allclose(update.delta(base).dense(), expected, atol=1e-5)


def test_oldest_oft_stores_the_rotation(tmp_path: Path) -> None:
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    update = saved(tmp_path, {f"oft_unet_{TO_Q}.oft_diag": torch.stack([turn, torch.eye(2)])}).layers[NAME]
    base = torch.arange(8.0).reshape(4, 2)
    expected = torch.tensor([[-2.0, -3.0], [0.0, 1.0], [4.0, 5.0], [6.0, 7.0]]) - base
    assert torch.allclose(update.delta(base).dense(), expected)


def test_base_is_asked_for_by_name(tmp_path: Path) -> None:
    update = saved(tmp_path, {f"lora_unet_{TO_Q}.oft_blocks": torch.zeros(2, 2, 2)}).layers[NAME]
    with pytest.raises(InputError, match="needs the checkpoint's weight") as caught:
        update.delta()
    assert (caught.value.code, caught.value.key) == ("needs-checkpoint", f"lora_unet_{TO_Q}.oft_blocks")
    update.check_fits(LayerShape(4, 7))
    with pytest.raises(InputError, match="is 4 x any, the checkpoint's layer is 6 x 7") as caught:
        update.check_fits(LayerShape(6, 7))
    assert caught.value.code == "shape-mismatch"


# ED-LoRA ------------------------------------------------------------------------------------------------------------


def edlora(style: str) -> dict[str, dict[str, dict[str, Tensor]]]:
    torch.manual_seed(0)
    parts: dict[str, dict[str, Tensor]] = {"text_encoder": {}, "unet": {}}
    paths = {"text_encoder": "text_model.encoder.layers.0.self_attn.q_proj", "unet": NAME.removeprefix("unet.")}
    ends = {"main": (".lora_up.weight", ".lora_down.weight"), "research": ("_lora.up.weight", "_lora.down.weight")}
    for component, path in paths.items():
        up, down = ends[style]
        parts[component] = {path + up: torch.randn(8, 4), path + down: torch.randn(4, 8)}
    return {"params": {"new_concept_embedding": {"<a1>": torch.randn(16, 8), "<a2>": torch.randn(16, 8)}, **parts}}


@pytest.mark.parametrize("style", ["main", "research"])
def test_edlora_has_the_scale_that_is_given(style: str, tmp_path: Path) -> None:
    content = edlora(style)
    torch.save(content, tmp_path / "bob.pth")
    file = read_lora(tmp_path / "bob.pth", edlora_alpha=1.5)
    assert sorted(file.layers) == ["text_encoder.text_model.encoder.layers.0.self_attn.q_proj", NAME]
    up, down = content["params"]["unet"].values()
    assert torch.allclose(file.layers[NAME].delta().dense(), 1.5 * up @ down, rtol=1e-6)
    assert torch.allclose(read_lora(tmp_path / "bob.pth").layers[NAME].delta().dense(), up @ down, rtol=1e-6)
    assert file.triggers == ("<a1> <a2>",)
    assert torch.equal(file.embeddings["<a1>"], content["params"]["new_concept_embedding"]["<a1>"])
    assert [warning.code for warning in file.warnings] == ["bundled-embeddings"]


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path, ("/",))


def test_edlora_with_code_inside_is_refused(tmp_path: Path) -> None:
    torch.save({"params": {"unet": {}, "x": Bomb()}}, tmp_path / "bad.pth")
    with pytest.raises(InputError, match="plain tensors") as caught:
        read_lora(tmp_path / "bad.pth")
    assert caught.value.code == "pickle"
    torch.save({"weights": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other.pth is not an ED-LoRA"):
        read_lora(tmp_path / "other.pth")


# cloneofsimo --------------------------------------------------------------------------------------------------------


def walked(kinds: set[str], classes: tuple[type, ...]) -> list[tuple[str, tuple[int, ...]]]:
    """Layers in the order in which the trainer walks a real UNet (of today's diffusers)."""
    model = unet(UNET_CONFIGS["sd1"], "meta")
    result: list[tuple[str, tuple[int, ...]]] = []
    for name, module in model.named_modules():
        if type(module).__name__ in kinds:
            result += [(f"unet.{name}.{inner}", tuple(child.weight.shape))
                       for inner, child in module.named_modules() if isinstance(child, classes)]  # fmt: skip
    return result


def old_order(layers: list[tuple[str, tuple[int, ...]]]) -> list[tuple[str, tuple[int, ...]]]:
    """Diffusers up to 0.11 had the feed-forward between the attentions."""
    result: list[tuple[str, tuple[int, ...]]] = []
    for name, shape in layers:
        if name.endswith("ff.net.0.proj"):
            result.insert(len(result) - 4, (name, shape))
        else:
            result.append((name, shape))
    return result


@pytest.mark.parametrize("case", ["attention", "old attention", "extended"])
def test_numbered_layers_get_their_names(case: str, tmp_path: Path) -> None:
    extended = case == "extended"
    kinds = {"Attention", "GEGLU"} | ({"ResnetBlock2D"} if extended else set())
    layers = walked(kinds, (nn.Linear, nn.Conv2d) if extended else (nn.Linear,))
    layers = old_order(layers) if case == "old attention" else layers
    tensors: dict[str, Tensor] = {}
    for number, (_, (out, inputs, *kernel)) in enumerate(layers):
        tensors[f"unet:{number}:up"] = torch.ones(out, 1, *(1 for _ in kernel))
        tensors[f"unet:{number}:down"] = torch.full((1, inputs, *kernel), float(number))
    for number in range(8):
        tensors |= {f"text_encoder:{number}:up": torch.ones(4, 1), f"text_encoder:{number}:down": torch.ones(1, 4)}
    tensors["<bob>"] = torch.randn(4)
    file = saved(tmp_path, tensors, **{"unet": "[]", "<bob>": "<embed>"})
    found = {name: float(update.delta().down[0, 0]) for name, update in file.layers.items() if "unet" in name}
    assert found == {name: float(number) for number, (name, _) in enumerate(layers)}
    assert "text_encoder.text_model.encoder.layers.1.self_attn.out_proj" in file.layers
    assert list(file.embeddings) == ["<bob>"]


def test_numbered_layers_of_another_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="order that is not known") as caught:
        saved(tmp_path, {"unet:0:up": torch.ones(2, 1), "unet:0:down": torch.ones(1, 2)})
    assert caught.value.code == "unknown-order"
