"""Asking a layer's installed `forward` once more, for other tokens and another text, whatever the host calls them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

CONTEXT_NAMES = ("context", "encoder_hidden_states")
MASK_NAMES = ("mask", "attention_mask")


def queries_of(inputs: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    """The first argument of an attention call: (b, n, c)."""
    return inputs[0] if inputs else named[_present(named, ("x", "hidden_states"))]


def context_of(inputs: tuple[Any, ...], named: dict[str, Any]) -> Tensor | None:
    """The text that was attended to; None in self-attention."""
    if len(inputs) > 1:
        return inputs[1]
    return next((named[name] for name in CONTEXT_NAMES if named.get(name) is not None), None)


def ask(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], queries: Tensor, context: Tensor) -> Tensor:
    """`module.forward` as it was called, with these queries and this context. No hook of the module itself fires.

    A separate `value` becomes the context too, and masks, which belong to other tokens, are dropped.
    """
    arguments, keywords = rephrased(inputs, named, queries, context)
    for name in MASK_NAMES:
        if keywords.get(name) is not None:
            keywords[name] = None
    return module.forward(*arguments, **keywords)


def rephrased(
    inputs: tuple[Any, ...], named: dict[str, Any], queries: Tensor, context: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of an attention call with other queries and another context, which is the `value` as well."""
    arguments, keywords = list(inputs), dict(named)
    if arguments:
        arguments[0] = queries
    else:
        keywords[_present(named, ("x", "hidden_states"))] = queries
    if len(arguments) > 1:
        arguments[1] = context
    else:
        keywords[_present(named, CONTEXT_NAMES)] = context
    if keywords.get("value") is not None:
        keywords["value"] = context
    return tuple(arguments), keywords


def divisible(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> bool:
    """Whether a layer may be called for a part of its rows and tokens without anybody noticing.

    Not where another extension has put its own `forward` or hooks on it, which may count rows, and not where a mask or
    a separate value came with the call. One hook of each kind is the regional runtime's own.
    """
    own = vars(module)
    alone = "forward" not in own and len(own["_forward_hooks"]) == len(own["_forward_pre_hooks"]) == 1
    extra = named.get("value") is not None or any(named.get(name) is not None for name in MASK_NAMES)
    return alone and not extra and len(inputs) <= 2 and context_of(inputs, named) is not None


def _present(named: dict[str, Any], names: tuple[str, ...]) -> str:
    return next((name for name in names if name in named), names[0])
