"""Rows of real inputs from the miniature: each LoRA runs on its own prompts, and rows of its layers are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib_loraclr.capture.hooks import collect, inject, input_rows
from lib_loraclr.capture.prompts import SAMPLE_TEMPLATES, filled
from lib_loraclr.core.deltas import Delta, LowRank
from lib_loraclr.formats import read_lora
from lib_loraclr.hosts.standalone import load_checkpoint
from lib_loraclr.model import DiffusionHost, SampleRequest

PROMPTS = 4


def capture_rows(
    checkpoint: Path, loras: Path, folder: Path, count: int, rows: int, *, every_layer: bool = False
) -> list[dict[str, Any]]:
    """One file a layer in `folder`, and what `merge_speed.Layer` needs of it: family, out, size, rows, file."""
    files = sorted(loras.glob("*.safetensors"))[:count]
    if len(files) < count:
        raise SystemExit(f"{loras} holds {len(files)} LoRAs, {count} are needed; give a folder with --loras")
    host = load_checkpoint(checkpoint)
    read = [read_lora(file, layers=list(host.layers())) for file in files]
    deltas = [{name: update.delta() for name, update in lora.layers.items()} for lora in read]
    chosen = _chosen(deltas, every_layer)
    kept: list[dict[str, Tensor]] = []
    for lora, own in zip(read, deltas, strict=True):
        kept.append(_rows_of(host, lora.triggers[0] if lora.triggers else lora.name, own, list(chosen), rows))
    stored: list[dict[str, Any]] = []
    for number, (name, family) in enumerate(chosen.items()):
        least = min(len(part[name]) for part in kept)
        parts = [_stored(part[name][:least], own[name]) for part, own in zip(kept, deltas, strict=True)]
        file = folder / f"{number}.pt"
        torch.save(parts, file)
        out, size = deltas[0][name].shape
        stored.append({"family": family, "out": out, "size": size, "rows": least, "file": str(file)})
    return stored


def _chosen(deltas: Sequence[Mapping[str, Delta]], every_layer: bool) -> dict[str, str]:
    """Layers that every LoRA has in factored form -> their family: the last parts of the name and the shape.

    One layer of each family, unless all are wanted, which then go by their full names.
    """
    common = set(deltas[0]).intersection(*deltas[1:])
    families: dict[str, str] = {}
    for name in sorted(common):
        if all(isinstance(own[name], LowRank) for own in deltas):
            out, size = deltas[0][name].shape
            last = "text encoder" if name.startswith("text_encoder") else ".".join(name.split(".")[-2:])
            families[name] = name if every_layer else f"{last.removesuffix('.0')} {out}x{size}"
    return {name: family for family, name in {family: name for name, family in reversed(families.items())}.items()}


def _rows_of(
    host: DiffusionHost, trigger: str, own: Mapping[str, Delta], names: list[str], rows: int
) -> dict[str, Tensor]:
    """At most `rows` rows of each layer's inputs while this LoRA runs, drawn evenly from all its calls."""
    generator, seen = torch.Generator().manual_seed(0), dict[str, list[Tensor]]()

    def some(matrix: Tensor) -> Tensor:
        return matrix[torch.randperm(len(matrix), generator=generator)[:rows]]

    def receive(name: str, module: nn.Module, inputs: Tensor) -> None:
        flat = input_rows(module, inputs).detach().flatten(0, -2).float()
        seen.setdefault(name, []).append(some(flat).clone())

    prompts = filled(SAMPLE_TEMPLATES, trigger, 0, PROMPTS)
    side = host.info.native_size
    modules = host.layers()
    with host.ready(), inject(modules, own), collect(modules, names, receive), torch.no_grad():
        host.sample(SampleRequest(prompts, list(range(PROMPTS)), 20, (side, side)))
    return {name: some(torch.cat(parts)) for name, parts in seen.items()}


def _stored(rows: Tensor, delta: Delta) -> dict[str, Tensor]:
    assert isinstance(delta, LowRank)
    return {"rows": rows.half().float().clone(), "up": delta.up.contiguous(), "down": delta.down.contiguous()}
