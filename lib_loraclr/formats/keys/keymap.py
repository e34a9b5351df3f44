"""Module keys of LoRA files <-> canonical layer names.

Every key style is first brought to a component and a flat name (dots as underscores, wrapper prefixes and attention
processors removed). That name is looked up among the model's layers when they are known, else spelled out by grammar.

Sources of the styles: sd-scripts `networks/lora.py` (lora_unet_, lora_te_, lora_te1_, lora_te2_; SDXL UNet names of the
original code base), LyCORIS wrapper (lycoris_), diffusers and PEFT (dotted paths), OneTrainer and ai-toolkit (both).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lib_loraclr.formats.keys.names import flatten, is_ldm, unflatten
from lib_loraclr.formats.keys.unet_layout import UNetLayout

UNET, TEXT, TEXT2 = "unet", "text_encoder", "text_encoder_2"

_WRAPPERS = re.compile(r"^(?:base_model_model_|_orig_mod_|module_)+")
_PREFIXES: tuple[tuple[str, str], ...] = (
    ("lora_unet_", UNET),
    ("oft_unet_", UNET),
    ("model_diffusion_model_", UNET),
    ("diffusion_model_", UNET),
    ("unet_", UNET),
    ("lora_te1_", TEXT),
    ("lora_te2_", TEXT2),
    ("lora_te_", TEXT),
    ("oft_te1_", TEXT),
    ("oft_te2_", TEXT2),
    ("oft_te_", TEXT),
    ("text_encoder_2_", TEXT2),
    ("text_encoder_", TEXT),
    ("clip_l_transformer_", TEXT),
    ("clip_g_transformer_", TEXT2),
    ("clip_l_", TEXT),
    ("clip_g_", TEXT2),
    ("lycoris_", ""),
    ("lora_", ""),
)
_PROCESSOR = re.compile(r"(attn\d?)_processor_(?=to_)")
_BARE_TO_OUT = re.compile(r"to_out$")
_TEXT_LAYER = re.compile(
    r"text_encoder(?:_2)?\.(?:(?:text_model\.)?encoder\.layers\.\d+\.(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])|text_projection)"
)
_UNET_START = re.compile(r"(?:down_blocks|up_blocks|mid_block|conv_|time_embedding|add_embedding)")


def split_component(module_key: str) -> tuple[str, str]:
    """(component or "", flat name) of a module key of any style."""
    flat, component = _WRAPPERS.sub("", flatten(module_key)), ""
    while not component:  # lycoris_ says nothing about the component, but another prefix may follow
        prefix, component = next(((p, known) for p, known in _PREFIXES if flat.startswith(p)), ("", ""))
        if not prefix:
            break
        flat = _WRAPPERS.sub("", flat[len(prefix) :])
    flat = _BARE_TO_OUT.sub("to_out_0", _PROCESSOR.sub(r"\1_", flat))
    if component != UNET:
        flat = _with_text_model(flat)
    if not component:
        if _UNET_START.match(flat) or is_ldm(flat):
            component = UNET
        elif flat.startswith("text_model_"):
            component = TEXT
    return component, flat


class KeyMap:
    """Translates module keys of one model or family."""

    def __init__(self, layout: UNetLayout, layers: Iterable[str] | None = None) -> None:
        self.layout = layout
        self._known = None if layers is None else {_index(name): name for name in layers}

    @classmethod
    def of_family(cls, family: str) -> KeyMap:
        """By grammar alone, with the family's standard UNet layout."""
        return cls(UNetLayout.of_family(family))

    @classmethod
    def from_layers(cls, names: Iterable[str]) -> KeyMap:
        """For a model whose canonical layer names are all known: no name outside it is ever returned."""
        known = list(names)
        unet = [name[len(UNET) + 1 :] for name in known if name.startswith(f"{UNET}.")]
        return cls(UNetLayout.from_diffusers(unet) or UNetLayout.of_family("sd1"), known)

    @classmethod
    def guess(cls, module_keys: Iterable[str], family: str) -> KeyMap:
        """For a file without a model: the family's layout unless the file's LDM block numbers rule it out."""
        flats = (flat for component, flat in map(split_component, module_keys) if component == UNET and is_ldm(flat))
        paths = [path for path in map(unflatten, flats) if path]
        return cls(UNetLayout.guess_from_ldm(paths, family) if paths else UNetLayout.of_family(family))

    def canonical(self, module_key: str) -> str | None:
        """Canonical layer name of a file's module key; None if the model (or the grammar) has no such layer."""
        component, flat = split_component(module_key)
        if not component:
            return None if self._known is None else self._known.get(("", flatten(module_key)))
        if component == UNET and is_ldm(flat):
            path = unflatten(flat)
            ours = self.layout.to_diffusers(path) if path else None
            if ours is None:
                return None
            flat = flatten(ours)
        if self._known is not None:
            return self._known.get((component, flat))
        path = unflatten(flat)
        return f"{component}.{path}" if path else None

    def kohya(self, name: str, *, sdxl: bool, ldm: bool) -> str:
        """Module key as sd-scripts writes it; `ldm` asks for UNet names of the original code base.

        Raises ValueError for a layer that has no such key.
        """
        component, _, path = name.partition(".")
        if component == UNET:
            target = self.layout.to_ldm(path) if ldm else path
            if not target:
                raise ValueError(f"no LDM name for {name}")
            return f"lora_unet_{flatten(target)}"
        prefixes = {TEXT: "lora_te1" if sdxl else "lora_te", TEXT2: "lora_te2"}
        if component not in prefixes or not path:
            raise ValueError(f"no kohya key for {name}")
        return f"{prefixes[component]}_{_with_text_model(flatten(path))}"


def has_host_key(name: str) -> bool:
    """Whether both hosts have a key for a layer: everything in the UNet, the linear layers of text encoders."""
    return name.startswith(f"{UNET}.") or _TEXT_LAYER.fullmatch(name) is not None


def _with_text_model(flat: str) -> str:
    """Text encoder names always carry `text_model`; transformers 5 models and some trainers leave it out."""
    bare = flat.startswith(("encoder_layers_", "final_layer_norm", "embeddings_"))
    return f"text_model_{flat}" if bare else flat


def _index(name: str) -> tuple[str, str]:
    component, _, path = name.partition(".")
    if component in (TEXT, TEXT2):
        return component, _with_text_model(flatten(path))
    if component == UNET:
        return component, flatten(path)
    return "", flatten(name)
