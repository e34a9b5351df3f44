"""LoRAs and hypernetworks that the WebUI has put on the model: off while a job runs, back afterwards.

The built-in Lora extension adds LoRAs to the weights lazily, at a layer's next call, and keeps a copy of the base.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from modules import shared
from torch import Tensor, nn

from lib_loraclr.hosts.webui.catalogue import lora_extension

STALE = (("", 0.0, 0.0, None),)  # equals no set of LoRAs that a prompt can ask for


@contextmanager
def bare_model(model: Any) -> Generator[None]:
    """Scope in which the model computes what its checkpoint says."""
    networks = lora_extension()
    hypernetworks = getattr(shared, "loaded_hypernetworks", [])
    saved_hypernetworks, saved_loras = list(hypernetworks), list(networks.loaded_networks) if networks else []
    changed = [layer for layer in _mapped(model) if getattr(layer, "network_current_names", ())]
    hypernetworks.clear()
    try:
        if networks is not None:
            networks.loaded_networks.clear()
            _apply(networks, changed)
        yield
    finally:
        hypernetworks[:] = saved_hypernetworks
        if networks is not None:
            networks.loaded_networks[:] = saved_loras
            _apply(networks, changed)


def base_weight(layer: nn.Module) -> Tensor:
    """Float32 CPU copy of what the checkpoint says, also while a LoRA is in the weight or it is stored in 8 bits."""
    backup = getattr(layer, "network_weights_backup", None)
    exact = getattr(layer, "fp16_weight", None)
    weight: Any = backup if backup is not None else exact if exact is not None else layer.weight
    return weight.detach().to("cpu", torch.float32, copy=True)


def forget(model: Any | None, name: str) -> None:
    """Make the extension read and apply the LoRA `name` anew: its file was replaced under the same name."""
    networks = lora_extension()
    if networks is None:
        return
    networks.networks_in_memory.pop(name, None)
    networks.loaded_networks[:] = [network for network in networks.loaded_networks if network.name != name]
    for layer in _mapped(model):
        if any(entry[0] == name for entry in getattr(layer, "network_current_names", ())):
            layer.network_current_names = STALE


def _apply(networks: Any, layers: list[Any]) -> None:
    with torch.no_grad():
        for layer in layers:
            networks.network_apply_weights(layer)


def _mapped(model: Any | None) -> list[Any]:
    return list(getattr(model, "network_layer_mapping", {}).values()) if model is not None else []
