"""Hooks: injected factors against patched weights, rows of convolutions, shared inputs, removal."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lib_loraclr.capture.hooks import SharedInputs, collect, inject, input_features, input_rows
from lib_loraclr.core.deltas import Delta, Dense, LowRank
from lib_loraclr.core.errors import InputError


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(6, 5), (2, 3, 6)),
    "linear without bias": (nn.Linear(6, 5, bias=False), (2, 6)),
    "conv 1x1": (nn.Conv2d(6, 5, 1), (2, 6, 4, 4)),
    "conv 3x3": (nn.Conv2d(4, 5, 3, padding=1), (2, 4, 6, 5)),
    "conv stride": (nn.Conv2d(4, 5, 3, stride=2, padding=1), (2, 4, 6, 5)),
    "conv 1x1 stride": (nn.Conv2d(4, 5, 1, stride=2), (2, 4, 6, 5)),
    "conv dilated": (nn.Conv2d(4, 5, (3, 2), padding=(2, 1), dilation=2), (2, 4, 7, 7)),
    "conv same": (nn.Conv2d(4, 5, (3, 2), padding="same"), (2, 4, 6, 5)),
    "conv valid": (nn.Conv2d(4, 5, 3, padding="valid"), (2, 4, 6, 5)),
}


def delta(module: nn.Module, kind: str, seed: int = 1) -> Delta:
    weight = module.weight
    low = LowRank(random(len(weight), 2, seed=seed), random(2, weight[0].numel(), seed=seed + 1))
    return low if kind == "factors" else Dense(low.dense())


def patched(module: nn.Module, x: Tensor, *changes: Tensor) -> Tensor:
    """The output with the weight really changed, and changed back."""
    before = module.weight.detach().clone()
    with torch.no_grad():
        for change in changes:
            module.weight += change.view_as(module.weight)
        out = module(x)
        module.weight.copy_(before)
    return out


@pytest.mark.parametrize("kind", ["factors", "dense"])
@pytest.mark.parametrize("name", LAYERS)
def test_injected_delta_equals_patched_weight(name: str, kind: str) -> None:
    module, shape = LAYERS[name]
    x, change = random(*shape, seed=9), delta(module, kind)
    plain = module(x)
    with inject({"layer": module}, {"layer": change}, 0.6):
        ours = module(x)
    assert torch.allclose(ours, patched(module, x, 0.6 * change.dense()), atol=1e-5)
    assert not torch.allclose(ours, plain, atol=1e-2)
    assert torch.equal(module(x), plain)


def test_scopes_nest_and_add_up() -> None:
    module, x = nn.Linear(6, 5), random(3, 6)
    one, two = delta(module, "factors", 1), delta(module, "dense", 7)
    with inject({"a": module}, {"a": one}), inject({"a": module}, {"a": two}, -2.0):
        both = module(x)
    assert torch.allclose(both, patched(module, x, one.dense(), -2.0 * two.dense()), atol=1e-5)


def test_factors_follow_the_dtype_of_the_input() -> None:
    module = nn.Linear(6, 5).bfloat16()
    change = delta(module.float(), "factors")
    module.bfloat16()
    x = random(3, 6).bfloat16()
    with inject({"a": module}, {"a": change}):
        ours = module(x)
    assert ours.dtype == torch.bfloat16
    expected = x.float() @ (module.weight.float() + change.dense()).T + module.bias.float()
    assert torch.allclose(ours.float(), expected, atol=0.1)


def test_weight_zero_registers_nothing_and_weights_are_never_touched() -> None:
    module = nn.Linear(6, 5)
    before = module.weight.detach().clone()
    with inject({"a": module}, {"a": delta(module, "factors")}, 0.0):
        assert not module._forward_hooks
    with inject({"a": module}, {"a": delta(module, "factors")}):
        module(random(1, 6))
        assert torch.equal(module.weight, before)


def test_hooks_are_gone_after_an_error() -> None:
    module = nn.Linear(6, 5)

    def fail() -> None:
        watch = SharedInputs()
        with inject({"a": module}, {"a": delta(module, "factors")}), collect({"a": module}, ["a"], watch):
            assert module._forward_hooks
            assert module._forward_pre_hooks
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert not module._forward_hooks
    assert not module._forward_pre_hooks


def test_wrong_layer_or_shape_hooks_nothing() -> None:
    good, bad = nn.Linear(6, 5), nn.Conv2d(6, 5, 3)
    modules = {"good": good, "bad": bad}
    for deltas, code, key in (
        ({"good": delta(good, "factors"), "bad": delta(good, "factors")}, "shape-mismatch", "bad"),
        ({"good": delta(good, "factors"), "none": delta(good, "factors")}, "unknown-layer", "none"),
    ):
        with pytest.raises(InputError) as caught, inject(modules, deltas):
            pass
        assert (caught.value.code, caught.value.key) == (code, key)
        assert not good._forward_hooks


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_unfolded_weight_are_the_layer(name: str) -> None:
    module, shape = LAYERS[name]
    x = random(*shape, seed=3)
    rows = input_rows(module, x)
    assert rows.shape[-1] == input_features(module)
    out = rows @ module.weight.reshape(len(module.weight), -1).T
    if module.bias is not None:
        out = out + module.bias
    expected = module(x)
    expected = expected.flatten(2).transpose(1, 2) if expected.ndim == 4 else expected
    assert torch.allclose(out, expected, atol=1e-5)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.out(self.q(x) + self.k(context).mean(0) + self.v(context).mean(0))


def test_shared_inputs_are_found_by_identity() -> None:
    first, second = Attention(), Attention()
    modules = dict(nn.ModuleDict({"a": first, "b": second}).named_modules())
    names = [f"{block}.{name}" for block in "ab" for name in ("q", "k", "v", "out")]
    x, context = random(3, 4), random(5, 4, seed=2)
    watch = SharedInputs()
    with collect(modules, names, watch):
        second(first(x, context), context)
        first(x, x)
    leaders = watch.leaders()
    assert leaders["a.v"] == "a.k"
    assert leaders["a.k"] == "a.k"  # once the same tensor as `a.q`, but not always
    assert leaders["b.k"] == "b.k"  # `a` was called once more than `b`
    assert leaders["b.v"] == "b.k"
    watch = SharedInputs()
    with collect(modules, names, watch):
        second(first(x, context), context)
    assert watch.leaders() == {
        "a.q": "a.q", "a.k": "a.k", "a.v": "a.k", "a.out": "a.out", "b.q": "b.q", "b.k": "a.k", "b.v": "a.k",
        "b.out": "b.out",
    }  # fmt: skip


def test_a_tensor_changed_in_place_is_another_input() -> None:
    modules = {"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "c": nn.Linear(4, 4)}
    watch, x = SharedInputs(), random(3, 4)
    with collect(modules, list(modules), watch), torch.no_grad():
        modules["a"](x)
        x += 1
        modules["b"](x)
        modules["c"](x)
    assert watch.leaders() == {"a": "a", "b": "b", "c": "b"}


def test_a_freed_tensor_is_not_mistaken_for_its_successor() -> None:
    modules = {str(k): nn.Linear(4, 4) for k in range(50)}
    watch = SharedInputs()
    with collect(modules, list(modules), watch), torch.no_grad():
        for module in modules.values():
            module(torch.ones(2, 4))  # freed at once: ids are used again
    assert watch.leaders() == {name: name for name in modules}


def test_inference_tensors_are_watched_too() -> None:
    modules = {"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)}
    watch = SharedInputs()
    with collect(modules, ["a", "b"], watch), torch.inference_mode():
        x = torch.ones(2, 4)
        modules["a"](x)
        modules["b"](x)
    assert watch.leaders() == {"a": "a", "b": "a"}
