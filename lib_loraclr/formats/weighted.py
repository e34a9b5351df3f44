"""From files to what a job adds to a model: read, checked against each other and the checkpoint, weights folded in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lib_loraclr.core.deltas import Delta, LayerShape
from lib_loraclr.core.errors import InputError
from lib_loraclr.formats import LayerUpdate
from lib_loraclr.formats.lora_file import FileWarning, LoraFile
from lib_loraclr.formats.read import read_lora
from lib_loraclr.model import DiffusionHost

BaseWeight = Callable[[str], Tensor]


def read_files(files: Sequence[Path], layers: Iterable[str] | None = None) -> list[LoraFile]:
    """The files' contents; `layers` are the checkpoint's layer names where they are known."""
    names = None if layers is None else list(layers)
    return [read_lora(file, layers=names) for file in files]


def check_families(loras: Sequence[LoraFile], base: str | None = None) -> None:
    """Raise InputError when the files were made for different base models, or for another than `base`."""
    known = [lora for lora in loras if lora.family != "unknown"]
    wanted, owner = (
        (base, "the checkpoint") if base else (known[0].family, f"'{known[0].path.name}'") if known else ("", "")
    )
    for lora in known:
        if lora.family != wanted:
            raise InputError(
                "family-mismatch",
                f"The LoRA is for {_family(lora.family)}, but {owner} is {_family(wanted)}; they cannot work together.",
                file=str(lora.path),
                key="lora",
            )


def _family(name: str) -> str:
    return {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "SDXL"}.get(name, name)


def family_of(loras: Sequence[LoraFile], base: str | None) -> str:
    """The family of the result: the checkpoint's, else what the files agree on."""
    return base or next((lora.family for lora in loras if lora.family != "unknown"), "unknown")


def needs_base(loras: Sequence[LoraFile]) -> bool:
    """Whether any layer of any file is only defined together with the base weight (DoRA, OFT, ...)."""
    return any(update.needs_base for lora in loras for update in lora.layers.values())


def unique_name(stem: str, taken: Sequence[str]) -> str:
    """`stem`, or `stem (2)` and so on when it is taken."""
    name, count = stem, 1
    while name in taken:
        count += 1
        name = f"{stem} ({count})"
    return name


def weighted_deltas(
    lora: LoraFile, weight: float, te_weight: float, base: BaseWeight | None, layers: Mapping[str, LayerShape] | None
) -> tuple[dict[str, Delta], list[FileWarning]]:
    """The file's true deltas times their weight, float32 on the CPU, without layers of weight 0.

    Raises InputError for a delta that does not fit its layer of the checkpoint, for a file none of whose layers the
    checkpoint has, and for a type that needs base weights where there are none.
    """
    deltas: dict[str, Delta] = {}
    missing: list[str] = []
    for name, update in lora.layers.items():
        key = update.keys[0] if update.keys else name
        if layers is not None and name not in layers:
            missing.append(key)
            continue
        if layers is not None:
            update.check_fits(layers[name])
        factor = te_weight if name.startswith("text_encoder") else weight
        if update.needs_base and base is None:
            raise InputError(
                "needs-checkpoint",
                f"The type {update.kind} is only defined together with a base model; give a checkpoint.",
                file=str(lora.path),
                key=key,
            )
        delta = update.delta(base(name) if update.needs_base and base is not None else None)
        if layers is not None:
            _check_fit(lora, key, delta, layers[name])
        if factor != 0.0:
            exact = delta.to("cpu", torch.float32)
            deltas[name] = exact if factor == 1.0 else exact.scaled(factor)
    return deltas, _missing_layers(lora, missing)


def _check_fit(lora: LoraFile, key: str, delta: Delta, shape: LayerShape) -> None:
    if delta.shape != (shape.out_features, shape.in_features):
        raise InputError(
            "shape-mismatch",
            f"The LoRA's layer is {delta.shape[0]} x {delta.shape[1]}, the checkpoint's {shape.out_features} x "
            f"{shape.in_features}; it was made for another model.",
            file=str(lora.path),
            key=key,
        )


def _missing_layers(lora: LoraFile, missing: Sequence[str]) -> list[FileWarning]:
    if not missing:
        return []
    if len(missing) == len(lora.layers):
        raise InputError(
            "no-layer-fits",
            "The checkpoint has none of the LoRA's layers; it was made for another model.",
            file=str(lora.path),
            key=missing[0],
        )
    message = f"The checkpoint does not have {len(missing)} of the LoRA's {len(lora.layers)} layers; they are left out."
    return [FileWarning("unmatched-layers", message, str(lora.path), missing[0])]


def host_shapes(host: DiffusionHost) -> dict[str, LayerShape]:
    """Shape of every layer of a loaded model that can be hooked."""
    shapes: dict[str, LayerShape] = {}
    for name, module in host.layers().items():
        weight = module.weight
        if isinstance(weight, Tensor):
            shapes[name] = LayerShape.of(weight.shape)
    return shapes


def find_lora(name: str, folder: Path | None) -> Path:
    """A LoRA by path, or by name (with or without .safetensors) in `folder` and below. Raises InputError.

    For what the user of the command line types. Names from requests, pictures and layouts never become paths:
    `app.catalogue.entry_of` compares them.
    """
    direct = Path(name).expanduser()
    if direct.is_file():
        return direct
    if folder is not None:
        beside = folder / name
        options = [beside, beside.with_name(beside.name + ".safetensors")]
        options += sorted(path for path in folder.rglob("*.safetensors") if path.stem == name)
        for path in options:
            if path.is_file():
                return path
    place = f" in '{folder}'" if folder is not None else ""
    raise InputError("file-not-found", f"There is no LoRA '{name}'{place}.", file=name, key="lora")


CONVOLUTIONS_3X3 = ("conv1", "conv2", "conv_in", "conv_out", "conv")


def shape_without_model(name: str, delta: Delta, updates: Sequence[LayerUpdate], family: str) -> LayerShape:
    """The shape of layer `name`, whose unfolded change is `delta`.

    A kernel that a file shows is believed; files of flattened types (LoHa, LoKr) show none, so the name decides:
    every `conv…` of the UNet is 3 x 3, its shortcut 1 x 1, and proj_in / proj_out are 1 x 1 in SD1, linear later.
    """
    out, columns = delta.shape
    kernel = next((found for update in updates if (found := _stated(update))), None) or _by_name(name, columns, family)
    if kernel is None or columns % (kernel[0] * kernel[1]):
        return LayerShape(out, columns)
    return LayerShape(out, columns // (kernel[0] * kernel[1]), kernel)


def _stated(update: LayerUpdate) -> tuple[int, int] | None:
    return (update.kernel[0], update.kernel[1]) if len(update.kernel) == 2 else None


def _by_name(name: str, columns: int, family: str) -> tuple[int, int] | None:
    if not name.startswith("unet."):
        return None
    last = name.rpartition(".")[2]
    if last in CONVOLUTIONS_3X3:
        return (3, 3) if columns % 9 == 0 else None
    if last == "conv_shortcut" or (last in ("proj_in", "proj_out") and family == "sd1" and ".attentions." in name):
        return 1, 1
    return None
