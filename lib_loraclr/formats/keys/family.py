"""Which base model family a LoRA belongs to, from its shapes, names and metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

FAMILIES = ("sd1", "sd2", "sdxl")
UNSUPPORTED = (
    (re.compile(r"(?:^|[._])(?:double_blocks|single_blocks|single_transformer_blocks)[._]"), "FLUX"),
    (re.compile(r"(?:^|[._])(?:joint_blocks|context_embedder)[._]|lora_te3_"), "Stable Diffusion 3"),
    (re.compile(r"lora_prior_"), "Stable Cascade"),
)
_TEXT_ENCODERS = (
    ("sdxl", "conditioner.embedders.1.model."), ("sd2", "cond_stage_model.model."),
    ("sd1", "cond_stage_model.transformer."),
)  # fmt: skip
_CONTEXT_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
_TEXT_WIDTHS = {768: "sd1", 1024: "sd2"}


def family_of_metadata(metadata: Mapping[str, str]) -> str:
    """From `ss_base_model_version`, `ss_v2` and `modelspec.architecture`; "unknown" if they say nothing.

    sd-scripts writes sd_v1, sd_v2, sd_v2_v, sdxl_base_v1-0 and others, and stable-diffusion-v1/lora and the like.
    """
    version = metadata.get("ss_base_model_version", "").lower()
    architecture = metadata.get("modelspec.architecture", "").lower()
    for text, prefixes in ((version, ("sdxl", "sd_v2", "sd_v1")), (architecture, ("stable-diffusion-xl", "", ""))):
        for prefix, family in zip(prefixes, ("sdxl", "sd2", "sd1"), strict=True):
            if prefix and text.startswith(prefix):
                return family
    if architecture.startswith("stable-diffusion-v"):
        return {"1": "sd1", "2": "sd2"}.get(architecture[len("stable-diffusion-v") :][:1], "unknown")
    if metadata.get("ss_v2") == "True":
        return "sd2"
    return "unknown"


def family_of_checkpoint(keys: Iterable[str]) -> str:
    """From the tensor names of a single-file checkpoint: its text encoder tells. "unknown" without one of ours."""
    names = list(keys)
    found = (family for family, prefix in _TEXT_ENCODERS if any(name.startswith(prefix) for name in names))
    return next(found, "unknown")


def family_of_layers(inputs: Mapping[str, int | None]) -> str:
    """From canonical layer names and the number of input columns of each (None: not known).

    Cross-attention K and V read the text encoder, so their width tells; a second text encoder or a second transformer
    block in the UNet is SDXL's. "unknown" where nothing tells.
    """
    votes: set[str] = set()
    for name, width in inputs.items():
        if name.startswith("text_encoder_2.") or re.search(r"transformer_blocks\.[1-9]", name):
            return "sdxl"
        if width in _CONTEXT_WIDTHS and name.endswith(("attn2.to_k", "attn2.to_v")):
            votes.add(_CONTEXT_WIDTHS[width])
    if not votes and not any(name.startswith("unet.") for name in inputs):
        for name, width in inputs.items():
            if width in _TEXT_WIDTHS and name.endswith("_proj"):
                votes.add(_TEXT_WIDTHS[width])
    return votes.pop() if len(votes) == 1 else "unknown"


def unsupported_family(keys: Iterable[str]) -> str | None:
    """The name of a family that is recognised but not supported, for a clear refusal."""
    for key in keys:
        for pattern, title in UNSUPPORTED:
            if pattern.search(key):
                return title
    return None
