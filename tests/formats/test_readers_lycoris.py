"""Every LyCORIS family: the reader's dW against the network module that trains it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from safetensors.torch import save_file
from torch import Tensor, nn

from lib_loraclr.formats import read_lora

LINEAR_KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
CONV_KEY = "lora_unet_down_blocks_0_resnets_0_conv1"


def layer(kind: str) -> nn.Module:
    torch.manual_seed(1)
    if kind == "linear":
        return nn.Linear(24, 64, bias=False)
    if kind == "square":
        return nn.Linear(32, 32, bias=False)
    return nn.Conv2d(24, 64, 1 if kind == "conv1" else 3, padding=0 if kind == "conv1" else 1, bias=False)


CASES: dict[str, tuple[type, str, dict[str, Any]]] = {}
for where in ("linear", "square", "conv1", "conv3"):
    CASES |= {
        f"lora-{where}": (LoConModule, where, {"lora_dim": 4, "alpha": 3}),
        f"lora-rs-{where}": (LoConModule, where, {"lora_dim": 4, "alpha": 3, "rs_lora": True}),
        f"dora-out-{where}": (LoConModule, where, {"lora_dim": 4, "alpha": 3, "weight_decompose": True}),
        f"dora-in-{where}": (
            LoConModule,
            where,
            {"lora_dim": 4, "alpha": 3, "weight_decompose": True, "wd_on_out": False},
        ),
        f"loha-{where}": (LohaModule, where, {"lora_dim": 2, "alpha": 1}),
        f"loha-large-{where}": (LohaModule, where, {"lora_dim": 8, "alpha": 1}),
        f"loha-dora-{where}": (LohaModule, where, {"lora_dim": 2, "alpha": 1, "weight_decompose": True}),
        f"lokr-{where}": (LokrModule, where, {"lora_dim": 2, "alpha": 1, "factor": 4}),
        f"lokr-both-{where}": (LokrModule, where, {"lora_dim": 1, "alpha": 2, "factor": 4, "decompose_both": True}),
        f"lokr-whole-{where}": (LokrModule, where, {"lora_dim": 2, "alpha": 1, "full_matrix": True}),
        f"lokr-dora-{where}": (LokrModule, where, {"lora_dim": 2, "alpha": 1, "factor": 4, "weight_decompose": True}),
        f"oft-{where}": (DiagOFTModule, where, {"lora_dim": 4}),
        f"oft-bound-{where}": (DiagOFTModule, where, {"lora_dim": 4, "constraint": 0.01}),
        f"oft-rescaled-{where}": (DiagOFTModule, where, {"lora_dim": 4, "rescaled": True}),
        f"boft-{where}": (ButterflyOFTModule, where, {"lora_dim": 4}),
        f"boft-bound-{where}": (ButterflyOFTModule, where, {"lora_dim": 4, "constraint": 0.01, "rescaled": True}),
        f"ia3-out-{where}": (IA3Module, where, {}),
        f"ia3-in-{where}": (IA3Module, where, {"train_on_input": True}),
        f"glora-{where}": (GLoRAModule, where, {"lora_dim": 4, "alpha": 2}),
        f"full-{where}": (FullModule, where, {}),
    }
CASES |= {
    "locon-tucker": (LoConModule, "conv3", {"lora_dim": 4, "alpha": 3, "use_tucker": True}),
    "loha-tucker": (LohaModule, "conv3", {"lora_dim": 3, "alpha": 1, "use_tucker": True}),
    "lokr-tucker": (LokrModule, "conv3", {"lora_dim": 2, "alpha": 1, "factor": 4, "use_tucker": True}),
    "dora-tucker": (LoConModule, "conv3", {"lora_dim": 4, "alpha": 3, "use_tucker": True, "weight_decompose": True}),
}
KINDS = {"lora": "lora", "dora": "dora", "boft": "boft", "locon": "locon"}


def randomised(case: str) -> tuple[nn.Module, nn.Module]:
    family, where, options = CASES[case]
    original = layer(where)
    module = family("lora_x", original, multiplier=1.0, **options)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in module.named_parameters():
        if "org_module" not in name:
            spread = 0.5 + torch.rand(parameter.shape, generator=generator)
            sign = torch.randn(parameter.shape, generator=generator).sign()
            scale = 1.0 if name in ("dora_scale", "rescale") else 0.2 * sign
            parameter.data = spread * scale
    return original, module


def oracle(module: Any, original: Any, delta: Tensor) -> tuple[Tensor, Tensor]:
    """What the module's own forward adds to the layer's output, and what dW adds, on random inputs in float64.

    In float32 for the rotations, whose inverse LyCORIS fixes to that.
    Not `get_diff_weight`: for LoHa and LoKr that of LyCORIS 4.1 applies alpha / r twice, unlike its forward.
    """
    generator = torch.Generator().manual_seed(3)
    linear = isinstance(original, nn.Linear)
    dtype = torch.float32 if isinstance(module, DiagOFTModule | ButterflyOFTModule) else torch.float64
    inputs = torch.randn(5, original.weight.shape[1], *(() if linear else (6, 6)), generator=generator).to(dtype)
    module.to(dtype)
    original.to(dtype)
    with torch.no_grad():
        module.apply_to()
        changed = module(inputs)
        plain = module.org_forward(inputs) if not isinstance(module, FullModule) else None
        if plain is None:
            module.restore()
            plain = original(inputs)
        weight = delta.to(dtype).reshape(original.weight.shape)
        ours = F.linear(inputs, weight) if linear else F.conv2d(inputs, weight, padding=original.padding)
    return changed - plain, ours


def tensors_of(module: Any) -> dict[str, Tensor]:
    if isinstance(module, FullModule):
        return {"diff": module.weight.data}
    custom = module.custom_state_dict()
    state = custom if custom is not None else module.state_dict()
    return {name: tensor.detach() for name, tensor in state.items()}


@pytest.mark.parametrize("case", CASES)
def test_delta_is_what_lycoris_adds(case: str, tmp_path: Path) -> None:
    where = CASES[case][1]
    original, module = randomised(case)
    key = CONV_KEY if "conv" in case or "tucker" in case else LINEAR_KEY
    tensors = {f"{key}.{name}": tensor.clone().contiguous() for name, tensor in tensors_of(module).items()}
    save_file(tensors, tmp_path / "a.safetensors")
    file = read_lora(tmp_path / "a.safetensors")
    assert not file.warnings
    (update,) = file.layers.values()
    base = original.weight.data
    delta = update.delta(base).dense()
    assert update.kernel in ((), (3, 3), (1, 1))
    if where == "conv3" and update.kind in ("locon", "full", "glora"):
        assert update.kernel == (3, 3)
    assert update.size in ((64, base[0].numel()), (32, 32), (base.shape[0], None), (None, None))
    if not update.needs_base:
        assert torch.equal(update.delta().dense(), delta)
    theirs, ours = oracle(module, original, delta)
    assert float((theirs - ours).double().norm() / theirs.double().norm()) < (1e-6 if "oft" not in case else 2e-6)
    first = case.split("-")[0]
    assert update.kind == ("dora" if "dora" in case else "locon" if first == "lora" and "conv3" in case else first)
