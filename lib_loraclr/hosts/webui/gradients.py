"""Gradients through models that a WebUI has loaded for pictures only: what must differ while such a call runs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

# The original code base's own checkpointing computes a block anew for the backward call, and gives gradients to the
# block's inputs and weights only: what hooks add would get none. SDXL's conditioner encodes without gradients unless
# its encoders are trained.
FLAGS = {"checkpoint": False, "use_checkpoint": False, "is_trainable": True}


@contextmanager
def gradients(roots: Sequence[nn.Module], keep: Callable[[Tensor], Tensor] | None = None) -> Generator[None]:
    """Scope of a call through `roots` whose result can be differentiated, also after the scope was left.

    Weights take no gradient. Those made under `torch.inference_mode`, which no backward call may use, are stood in for
    by tensors on the same memory. `keep` makes what is kept of a tensor that the backward call needs; None keeps the
    tensor itself. Does nothing where gradients are off.
    """
    if not torch.is_grad_enabled():
        yield
        return
    with ExitStack() as stack:
        for module in dict.fromkeys(module for root in roots for module in root.modules()):
            _freeze(stack, module)
            for name, wanted in FLAGS.items():
                value = getattr(module, name, wanted)
                if value is None or (isinstance(value, bool) and value is not wanted):
                    stack.callback(setattr, module, name, value)
                    setattr(module, name, wanted)
        if keep is not None:
            stack.enter_context(saved_tensors_hooks(keep, _itself))
        yield


def copied(roots: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
    """For `gradients`: copies, because these models add in place to what they have used; of weights the memory."""
    weights = {parameter.data_ptr() for root in roots for parameter in root.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        return tensor.detach() if tensor.data_ptr() in weights else tensor.detach().clone()

    return keep


def held(tensor: Tensor) -> Tensor:
    """For `gradients`: the memory, which stays where it is when the WebUI moves the weights elsewhere."""
    return tensor.detach()


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _freeze(stack: ExitStack, module: nn.Module) -> None:
    parameters: dict[str, nn.Parameter | None] = vars(module)["_parameters"]
    for name, parameter in parameters.items():
        if parameter is None:
            continue
        if not _tracked(parameter):
            stack.callback(parameters.__setitem__, name, parameter)
            parameters[name] = nn.Parameter(_same_memory(parameter), requires_grad=False)
        elif parameter.requires_grad:
            stack.callback(parameter.requires_grad_, True)
            parameter.requires_grad_(False)


def _tracked(tensor: Tensor) -> bool:
    """Whether a backward call may use it: not one made in inference mode, nor one that was moved out of it since."""
    try:
        return not tensor.is_inference() and tensor._version >= 0
    except RuntimeError:
        return False


def _same_memory(tensor: Tensor) -> Tensor:
    view = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return view.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
