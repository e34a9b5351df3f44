"""Write a merged LoRA as kohya safetensors that A1111 and Forge accept, verified before it gets its name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lib_loraclr.core.deltas import Delta, Dense, LayerShape, LowRank
from lib_loraclr.core.errors import InputError, LoraclrError
from lib_loraclr.formats.hashes import LEGACY_HEAD, legacy_hash
from lib_loraclr.formats.keys.keymap import KeyMap, has_host_key
from lib_loraclr.formats.keys.unet_layout import UNetLayout
from lib_loraclr.formats.low_rank import exact_factors
from lib_loraclr.formats.safetensors_io import (
    SafetensorsFile,
    atomic_path,
    check_output,
    data_hash,
    header_bytes,
    tensor_bytes,
    write_safetensors,
)

SAVE_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class WrittenFile:
    """`sha256` is the hash that hosts show (over what follows the header), `tensors` their number.

    `left_out` names what Forge has no key for (norms and embeddings of text encoders): a dozen such keys and it drops
    the whole file.
    """

    path: Path
    sha256: str
    bytes: int
    tensors: int
    left_out: tuple[str, ...] = ()


def write_lora(
    path: Path,
    layers: Mapping[str, Delta],
    shapes: Mapping[str, LayerShape],
    *,
    family: str,
    dtype: str | torch.dtype,
    metadata: Mapping[str, str],
    vectors: Mapping[str, Tensor] | None = None,
    model_layers: Iterable[str] | None = None,
    module_keys: Iterable[str] = (),
    overwrite: bool = False,
) -> WrittenFile:
    """Write `layers` (canonical name -> true dW) to `path`, atomically; equal input gives equal bytes.

    `shapes` holds the shape of every layer and of layers that have a bias in `vectors`. `dtype` is "fp16", "bf16",
    "fp32" or the torch dtype. `model_layers` are all layer names of the model where they are known: a UNet with another
    number of residual blocks than the standard two gets names of the original code base, the only ones that hosts can
    place there. Without a model `module_keys`, those of the files that were merged, tell the same. Keys of size, rank
    and hash are added to `metadata`. Raises InputError for an output that cannot be written, LoraclrError ("overflow",
    "write-verify") for values that do not survive.
    """
    path = Path(path)
    check_output(path, overwrite=overwrite)
    kind = SAVE_DTYPES[dtype] if isinstance(dtype, str) else dtype
    namer = _Namer(family, model_layers, module_keys)
    tensors: dict[str, Tensor] = {}
    ranks: list[int] = []
    left_out = sorted(name for name in {*layers, *(vector_modules(vectors or {}))} if not has_host_key(name))
    for name in sorted(layers.keys() - set(left_out)):
        entry = _layer_tensors(layers[name], shapes[name], kind)
        if "lora_down.weight" in entry:
            ranks.append(entry["lora_down.weight"].shape[0])
        tensors |= {f"{namer.key(name)}.{part}": tensor for part, tensor in entry.items()}
    kept = {name: vector for name, vector in (vectors or {}).items() if name.rpartition(".")[0] not in left_out}
    tensors |= _vector_tensors(kept, tensors, shapes, kind, namer)
    if not tensors:
        raise InputError("empty-merge", f"The merge changes no layer, {path.name} was not written.", file=str(path))
    for key, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise LoraclrError("overflow", f"'{key}' does not fit into {kind}; save as fp32 or bf16.", key=key)
    complete = _with_sizes_and_hashes(metadata, tensors, ranks)
    with atomic_path(path, overwrite=overwrite) as temporary:
        write_safetensors(temporary, tensors, complete)
        _verify(temporary, path, tensors, complete)
    size = len(header_bytes(tensors, complete)) + sum(t.numel() * t.element_size() for t in tensors.values())
    return WrittenFile(path, complete["sshs_model_hash"], size, len(tensors), tuple(left_out))


def vector_modules(vectors: Iterable[str]) -> set[str]:
    """Modules of canonical parameter names."""
    return {vector.rpartition(".")[0] for vector in vectors}


class _Namer:
    """Module keys in the style that trainers use for the family."""

    def __init__(self, family: str, model_layers: Iterable[str] | None, module_keys: Iterable[str]) -> None:
        known = model_layers is not None
        self.keymap = KeyMap.from_layers(model_layers) if known else KeyMap.guess(module_keys, family)
        standard = UNetLayout.of_family(family)
        self.sdxl = family == "sdxl"
        self.ldm = self.sdxl or self.keymap.layout.res_blocks != standard.res_blocks

    def key(self, name: str) -> str:
        try:
            return self.keymap.kohya(name, sdxl=self.sdxl, ldm=self.ldm)
        except ValueError as error:
            raise LoraclrError("no-key", f"The layer '{name}' has no key in a LoRA file.", key=name) from error


def _layer_tensors(delta: Delta, shape: LayerShape, dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors of one layer; none for a change of rank 0."""
    if isinstance(delta, Dense):
        factors = exact_factors(delta.weight)
        if factors is None:
            return {"diff": delta.weight.reshape(shape.weight_shape).to(dtype)}
        delta = factors
    if delta.rank == 0:
        return {}
    up, down = balanced(delta)
    if shape.kernel is not None:
        up, down = up[:, :, None, None], down.reshape(-1, shape.in_channels, *shape.kernel)
    alpha = torch.tensor(float(delta.rank), dtype=dtype)
    up = up * (delta.rank / float(alpha))  # bfloat16 has no 257
    return {"lora_up.weight": up.to(dtype), "lora_down.weight": down.to(dtype), "alpha": alpha}


def balanced(delta: LowRank) -> tuple[Tensor, Tensor]:
    """(up, down) in float32, each direction's norm shared between both sides by a power of two, which is exact.

    Half precision then loses least: neither side under- nor overflows before dW itself does.
    """
    up, down = delta.up.detach().to("cpu", torch.float32), delta.down.detach().to("cpu", torch.float32)
    left, right = up.abs().amax(0), down.abs().amax(1)
    used = (left > 0) & (right > 0)
    shift = torch.where(used, torch.round(0.5 * torch.log2(right.clamp_min(1e-38) / left.clamp_min(1e-38))), 0.0)
    return torch.ldexp(up, shift), torch.ldexp(down, -shift[:, None])


def _vector_tensors(
    vectors: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, LayerShape],
    dtype: torch.dtype,
    namer: _Namer,
) -> dict[str, Tensor]:
    """Norms as w_norm and b_norm (A1111 wants both), biases as diff_b beside their layer's tensors.

    A bias alone gets a zero `diff`: A1111 refuses a whole file over a module without one. Beside factors A1111 ignores
    `diff_b`, Forge applies it.
    """
    result: dict[str, Tensor] = {}
    for name in sorted(vector_modules(vectors)):
        key = namer.key(name)
        weight, bias = vectors.get(f"{name}.weight"), vectors.get(f"{name}.bias")
        if weight is not None:
            bias = torch.zeros_like(weight) if bias is None else bias
            result |= {f"{key}.w_norm": weight.to(dtype), f"{key}.b_norm": bias.to(dtype)}
        elif bias is not None:
            result[f"{key}.diff_b"] = bias.to(dtype)
            if not any(f"{key}.{part}" in tensors for part in ("lora_up.weight", "diff")):
                result[f"{key}.diff"] = torch.zeros(shapes[name].weight_shape, dtype=dtype)
    return result


def _with_sizes_and_hashes(
    metadata: Mapping[str, str], tensors: Mapping[str, Tensor], ranks: list[int]
) -> dict[str, str]:
    """Adds what only the finished tensors tell; the order is sd-scripts': tensors, hashes, metadata."""
    complete = dict(metadata)
    if ranks:
        complete["ss_network_dim"] = str(ranks[0]) if len(set(ranks)) == 1 else "Dynamic"
        complete["ss_network_alpha"] = f"{float(ranks[0])}" if len(set(ranks)) == 1 else "Dynamic"
    digest = data_hash(tensors)
    head = header_bytes(tensors, complete)
    for name in sorted(tensors, key=lambda key: (-tensors[key].element_size(), key)):
        if len(head) >= LEGACY_HEAD:
            break
        head += tensor_bytes(tensors[name])
    complete["sshs_legacy_hash"] = legacy_hash(head)
    complete["sshs_model_hash"] = digest
    complete["modelspec.hash_sha256"] = f"0x{digest}"
    return complete


def _verify(written: Path, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Read the file back and compare everything with what should be in it."""
    file = SafetensorsFile.open(written)
    digest = hashlib.sha256()
    good = file.metadata == dict(metadata) and file.tensors.keys() == tensors.keys()
    for key in sorted(file.tensors, key=lambda name: file.tensors[name].begin) if good else ():
        tensor = file.read(key)
        good = good and tensor.dtype == tensors[key].dtype and torch.equal(tensor, tensors[key])  # NaN is not equal
        digest.update(tensor_bytes(tensor))
    if not good or digest.hexdigest() != metadata["sshs_model_hash"]:
        raise LoraclrError("write-verify", f"{path} did not read back as it was written.", file=str(path))
