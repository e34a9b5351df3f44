"""Read a LoRA file of any type and key style into a `LoraFile`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from torch import Tensor

from lib_loraclr.core.errors import InputError
from lib_loraclr.formats.adapter_config import AdapterConfig
from lib_loraclr.formats.edlora import EDLORA_SUFFIXES, read_edlora
from lib_loraclr.formats.hashes import file_sha256, model_hash
from lib_loraclr.formats.keys.family import FAMILIES, family_of_layers, family_of_metadata, unsupported_family
from lib_loraclr.formats.keys.keymap import KeyMap, split_component
from lib_loraclr.formats.keys.tensor_keys import split_tensor_key
from lib_loraclr.formats.lora_file import FileWarning, LayerUpdate, LoraFile
from lib_loraclr.formats.positional import is_positional, named_keys
from lib_loraclr.formats.readers import read_update
from lib_loraclr.formats.readers.parts import FileSource, MemorySource, Parts, Source
from lib_loraclr.formats.safetensors_io import SafetensorsFile, require_finite
from lib_loraclr.formats.triggers import triggers_of

_VECTOR_PARTS = {"w_norm": "weight", "b_norm": "bias", "diff_b": "bias"}
_BUNDLE = "bundle_emb."
_MAX_KEY_WARNINGS = 8


@dataclass
class _Content:
    """What is in a file before names are canonical."""

    source: Source
    keys: dict[str, str]  # key as the readers see it -> key in the source
    metadata: dict[str, str]
    sha256: str
    scale: Callable[[str, int | None], float | None] | None = None
    embeddings: dict[str, Tensor] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()


def read_lora(
    path: Path, *, layers: Iterable[str] | None = None, edlora_alpha: float = 1.0, values: bool = True
) -> LoraFile:
    """Read a LoRA file; every tensor is checked, none is kept (`LayerUpdate.delta` reads again).

    `layers` are the model's canonical layer names where they are known; without them names are understood by grammar.
    `edlora_alpha` is the scale of ED-LoRA files, which store none. `sha256` is the hash that hosts show: over what
    follows the header (over the whole file for `.pth`). Without `values` only the header of a safetensors file is read,
    for lists of many files: nothing is checked for NaN, and `sha256` is what the metadata says, or empty.
    Raises InputError, one sentence naming file and key, for anything that is wrong with the file.
    """
    path = Path(path)
    known = None if layers is None else list(layers)
    content = _edlora_content(path, edlora_alpha) if path.suffix.lower() in EDLORA_SUFFIXES else _content(path, values)
    return _Assembly(path, content, known).result()


def _content(path: Path, values: bool) -> _Content:
    file = SafetensorsFile.open(path)
    if not file.tensors:
        raise InputError("no-layers", f"{path.name} holds no tensors.", file=str(path))
    _require_lora_keys(path, file.tensors)
    for key in file.tensors if values else ():
        file.read_finite(key)
    embeddings = {key[len(_BUNDLE) :]: file.read(key) for key in file.tensors if key.startswith(_BUNDLE)}
    keys = {key: key for key in file.tensors if not key.startswith(_BUNDLE)}
    if is_positional(keys):
        keys, extra = named_keys(file)
        embeddings |= {key: file.read(key) for key in extra}
    config = AdapterConfig.of(path, file.metadata)
    scale = config.scale if config else None
    sha256 = model_hash(path) if values else file.metadata.get("sshs_model_hash", "")
    return _Content(FileSource(file), keys, file.metadata, sha256, scale, embeddings)


def _edlora_content(path: Path, alpha: float) -> _Content:
    tensors, embeddings = read_edlora(path)
    for key, tensor in (*tensors.items(), *embeddings.items()):
        require_finite(tensor, path, key)
    keys = {key: key for key in tensors}
    tokens = (" ".join(embeddings),) if embeddings else ()
    source = MemorySource(path, tensors)
    return _Content(source, keys, {}, file_sha256(path), lambda _module, _rank: alpha, embeddings, tokens)


def _require_lora_keys(path: Path, keys: Iterable[str]) -> None:
    """Refuse a file of plain weights, perhaps gigabytes of them, before its values are read."""
    names = list(keys)
    splits = map(split_tensor_key, names)
    if not is_positional(names) and all(split is None or split[1] == "weight" for split in splits):
        raise _no_layers(path, names)


def _no_layers(path: Path, keys: list[str]) -> InputError:
    """Why a file without a known layer is refused."""
    file, title = str(path), unsupported_family(keys)
    if title:
        message = f"{path.name} is a LoRA for {title}; supported are {', '.join(FAMILIES)}."
        return InputError("unsupported-family", message, file=file, key=keys[0])
    if any(key.startswith(("model.diffusion_model.", "cond_stage_model.", "first_stage_model.")) for key in keys):
        return InputError("not-a-lora", f"{path.name} is a checkpoint, not a LoRA.", file=file)
    message = f"{path.name} has no LoRA layer that is known here (for example '{keys[0]}')."
    return InputError("no-layers", message, file=file, key=keys[0])


class _Assembly:
    """Groups tensors by layer, asks the readers, collects warnings."""

    def __init__(self, path: Path, content: _Content, known: list[str] | None) -> None:
        self.path, self.content = path, content
        self.warnings: list[FileWarning] = []
        self.unknown: list[str] = []
        self.model_is_known, self.recognised = known is not None, False
        modules = self._modules()
        stated = family_of_metadata(content.metadata)
        self.keymap = KeyMap.from_layers(known) if known is not None else KeyMap.guess(modules, stated)
        self.layers: dict[str, LayerUpdate] = {}
        self.vectors: dict[str, Tensor] = {}
        for module, parts in modules.items():
            self._add(module, parts)
        self.family = self._family(stated)

    def result(self) -> LoraFile:
        """The file; InputError if nothing in it is a LoRA layer."""
        if not self.layers and not self.vectors:
            raise self._nothing_found()
        self._warn_unknown()
        if self.content.embeddings:
            names = ", ".join(sorted({key.split(".")[0] for key in self.content.embeddings}))
            self._warn("bundled-embeddings", f"{self.path.name} carries embeddings ({names}), which are not merged.")
        content = self.content
        triggers = content.tokens or triggers_of(self.path, content.metadata)
        return LoraFile(
            path=self.path,
            name=self.path.stem,
            family=self.family,
            layers=self.layers,
            vectors=self.vectors,
            metadata=content.metadata,
            sha256=content.sha256,
            triggers=triggers,
            embeddings=content.embeddings,
            warnings=tuple(self.warnings),
        )

    def _modules(self) -> dict[str, dict[str, str]]:
        """Module key -> part -> key in the source, in the order of the file's names."""
        modules: dict[str, dict[str, str]] = {}
        for key in sorted(self.content.keys):
            split = split_tensor_key(key)
            if split is None:
                self.unknown.append(key)
            else:
                modules.setdefault(split[0], {})[split[1]] = self.content.keys[key]
        return modules

    def _add(self, module: str, keys: Mapping[str, str]) -> None:
        scale = self.content.scale
        parts = Parts(self.content.source, module, keys, None if scale is None else partial(scale, module))
        update = read_update(parts)
        vectors = {
            end: part
            for part in ("w_norm", "b_norm", "diff", "diff_b")
            if part in parts and len(parts.shape(part)) == 1
            for end in (_VECTOR_PARTS.get(part, "weight"),)
        }
        name = self.keymap.canonical(module) if update or vectors else None
        if name is None:
            self.recognised |= update is not None
            self.unknown.extend(keys.values())
            return
        if update:
            if name in self.layers:
                first = self.layers[name].keys[0]
                message = f"{self.path.name} has the layer '{name}' twice: '{first}' and '{update.keys[0]}'."
                raise InputError("duplicate-layer", message, file=str(self.path), key=update.keys[0])
            self.layers[name] = update
        for end, part in vectors.items():
            self.vectors[f"{name}.{end}"] = parts.read(part)

    def _family(self, stated: str) -> str:
        widths = {name: update.size[1] for name, update in self.layers.items()}
        found = family_of_layers(widths)
        if found == "unknown":
            return stated if stated != "unknown" else self._family_of_names()
        if stated not in (found, "unknown"):
            self._warn("family-conflict", f"{self.path.name} says it is for {stated}, its shapes are those of {found}.")
        return found

    def _family_of_names(self) -> str:
        """A narrow model's LoRA without metadata: names of one text encoder and UNet of the first generation."""
        if any(split_component(key)[0] == "" for key in self.content.keys):
            return "unknown"
        cross = [update.size[1] for name, update in self.layers.items() if name.endswith("attn2.to_k")]
        return "sd1" if cross and all(width is not None and width < 768 for width in cross) else "unknown"

    def _nothing_found(self) -> InputError:
        keys = self.unknown or list(self.content.keys)
        if self.model_is_known and self.recognised:
            message = f"{self.path.name} is a LoRA for another model: the checkpoint has none of its layers."
            return InputError("no-layer-fits", message, file=str(self.path), key=keys[0])
        return _no_layers(self.path, keys)

    def _warn_unknown(self) -> None:
        for key in self.unknown[:_MAX_KEY_WARNINGS]:
            self._warn("unknown-key", f"{self.path.name}: '{key}' belongs to no known layer and is left out.", key)
        more = len(self.unknown) - _MAX_KEY_WARNINGS
        if more > 0:
            self._warn("unknown-key", f"{self.path.name}: {more} more keys belong to no known layer.")

    def _warn(self, code: str, message: str, key: str | None = None) -> None:
        self.warnings.append(FileWarning(code, message, str(self.path), key))
