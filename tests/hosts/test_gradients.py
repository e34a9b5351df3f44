"""Gradients through modules as WebUIs have them: made for inference, adding in place, checkpointed, moved away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lib_loraclr.hosts.webui.gradients import copied, gradients, held


class Block(nn.Module):
    """A transformer block's way with its input, as Forge and its relatives do it in place."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.norm, self.inner, self.in_place = nn.LayerNorm(4), nn.Linear(4, 4), in_place

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1
        for _ in range(2):
            n = self.inner(self.norm(x).tanh())
            if self.in_place:
                x += n
            else:
                x = x + n
        return x


class OldCheckpoint(torch.autograd.Function):
    """The original code base's (ldm/modules/diffusionmodules/util.py): gradients for inputs and weights only."""

    @staticmethod
    def forward(ctx: Any, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        ctx.run, ctx.x = run, x
        with torch.no_grad():
            return run(x)

    @staticmethod
    def backward(ctx: Any, *given: Any) -> Any:
        with torch.enable_grad():
            x = ctx.x.detach().requires_grad_(True)
            return None, torch.autograd.grad(ctx.run(x), [x], *given)[0]


class Checkpointed(nn.Module):
    """A block that is computed anew for the backward call."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.block, self.name = Block(in_place=False), name
        setattr(self, name, True)

    def forward(self, x: Tensor) -> Tensor:
        return OldCheckpoint.apply(self.block, x) if getattr(self, self.name) else self.block(x)


def added(module: nn.Linear, factor: Tensor) -> Any:
    return module.register_forward_hook(lambda _, inputs, output: output + inputs[0] @ factor)


def expected(block: Block, x: Tensor, factor: Tensor) -> Tensor:
    """Gradient of `factor` through the same weights, out of place, without any scope."""
    twin = Block(in_place=False)
    twin.load_state_dict({name: value.detach().clone() for name, value in block.state_dict().items()})
    factor = factor.detach().clone().requires_grad_(True)
    hook = added(twin.inner, factor)
    twin(x).square().sum().backward()
    hook.remove()
    assert factor.grad is not None
    return factor.grad


@pytest.fixture
def given() -> tuple[Tensor, Tensor]:
    values = torch.Generator().manual_seed(1)
    return torch.randn(3, 4, generator=values), torch.randn(4, 4, generator=values).requires_grad_(True)


@pytest.mark.parametrize(("made", "moved"), [(False, False), (True, True), (True, False), (False, True)])
def test_what_is_added_in_place_does_not_spoil_what_was_used(
    given: tuple[Tensor, Tensor], made: bool, moved: bool
) -> None:
    """Also with weights that were made, or have been moved by a memory manager, in inference mode."""
    x, factor = given
    with torch.inference_mode(made):
        block = Block(in_place=True)
    with torch.inference_mode(moved):
        block.to(torch.float64).to(torch.float32)
    flags = [p.requires_grad for p in block.parameters()]
    weights = list(block.parameters())
    hook = added(block.inner, factor)
    with pytest.raises(RuntimeError, match=r"[Ii]nference|inplace"):
        block(x).square().sum().backward()
    for weight in weights:
        weight.grad = None
    factor.grad = None
    with gradients([block], copied([block])):
        assert not any(p.requires_grad for p in block.parameters())
        assert [p.data_ptr() for p in block.parameters()] == [w.data_ptr() for w in weights]
        result = block(x)
    result.square().sum().backward()
    hook.remove()
    torch.testing.assert_close(factor.grad, expected(block, x, factor))
    assert all(ours is theirs for ours, theirs in zip(block.parameters(), weights, strict=True))
    assert [p.requires_grad for p in weights] == flags
    assert all(p.grad is None for p in weights)


@pytest.mark.parametrize("keep", ["held", "copied"])
def test_weights_may_go_before_the_backward_call(given: tuple[Tensor, Tensor], keep: str) -> None:
    """As when a WebUI sends the text encoder to the CPU, so that the UNet has room."""
    x, factor = given
    block = Block(in_place=False)
    wanted = expected(block, x, factor)
    hook = added(block.inner, factor)
    with gradients([block], held if keep == "held" else copied([block])):
        result = block(x)
    hook.remove()
    block.to(torch.float64)
    with torch.no_grad():
        block.inner.weight.zero_()
    result.square().sum().backward()
    torch.testing.assert_close(factor.grad, wanted)


def test_memory_of_weights_is_not_copied() -> None:
    block = Block(in_place=True)
    keep, other = copied([block]), torch.ones(3)
    assert keep(block.inner.weight).data_ptr() == block.inner.weight.data_ptr()
    assert keep(other).data_ptr() != other.data_ptr()
    assert torch.equal(keep(other), other)


@pytest.mark.parametrize("name", ["checkpoint", "use_checkpoint"])
def test_hooks_inside_checkpointed_blocks_get_their_gradients(given: tuple[Tensor, Tensor], name: str) -> None:
    x, factor = given
    module = Checkpointed(name)
    hook = added(module.block.inner, factor)
    with gradients([module]):
        result = module(x)
    hook.remove()
    assert getattr(module, name) is True
    result.square().sum().backward()
    torch.testing.assert_close(factor.grad, expected(module.block, x, factor))


def test_all_is_as_before_after_an_error_and_untouched_without_gradients() -> None:
    block = Checkpointed("checkpoint")
    block.is_trainable = None
    block.block.is_trainable = False
    weights = list(block.parameters())

    def look() -> tuple[Any, ...]:
        return block.checkpoint, block.is_trainable, block.block.is_trainable, [p.requires_grad for p in weights]

    before = look()
    with torch.no_grad(), gradients([block]):
        assert look() == before
    inside: list[Any] = []

    def fail() -> None:
        with gradients([block, block.block]):
            inside.append(look())
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert inside == [(False, True, True, [False] * len(weights))]
    assert look() == before
