"""What a use case needs of the world around it. No host import here: adapters implement these Protocols."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from lib_loraclr.core.errors import InputError


@dataclass(frozen=True)
class ModelInfo:
    """The loaded checkpoint: `family` is "sd1", "sd2" or "sdxl"; `sha256` keys the tensor cache.

    `variant` names the settings of the program that change what the model computes ("clip skip 2"); it is part of the
    key too, and empty where nothing departs from the checkpoint.
    """

    name: str
    family: str
    sha256: str
    native_size: int
    device: torch.device
    dtype: torch.dtype
    variant: str = ""

    @property
    def weights(self) -> str:
        """What names the model's numbers in a cache key."""
        return f"{self.sha256} {self.variant}" if self.variant else self.sha256


@dataclass(frozen=True)
class SampleRequest:
    """One batch for the host's own sampler: prompts run side by side, seed k for picture k."""

    prompts: Sequence[str]
    seeds: Sequence[int]
    steps: int = 20
    size: tuple[int, int] = (512, 512)  # (width, height)
    cfg_scale: float = 1.0  # 1.0 means: conditional branch only
    negative_prompt: str = ""
    sampler: str = "ddim"
    regions: Any = None  # a `regional.lora.RegionalRequest`; hosts that only capture need not know them


class Phase(Enum):
    """What a job is doing; the value is what people read."""

    READ = "Reading the LoRAs"
    LOAD = "Loading the model"
    WATCH = "Watching the model"
    SOLVE = "Solving"
    EVALUATE = "Evaluating each LoRA"
    DRAW = "Drawing with each LoRA"
    LEARN = "Distilling"
    COMPARE = "Comparing"
    WRITE = "Writing"
    GENERATE = "Generating pictures"

    @property
    def is_cached(self) -> bool:
        """Whether its result is kept, so that the next merge of the same LoRAs jumps over it."""
        return self in (Phase.WATCH, Phase.EVALUATE, Phase.DRAW, Phase.LEARN)

    def words(self, detail: str = "") -> str:
        """The text to show, with what sets this phase apart from others of its kind."""
        return f"{self.value}: {detail}" if detail else self.value


class Progress(Protocol):
    """Progress out, cancellation in. Implementations: `app.jobs.JobProgress`, and `SilentProgress`."""

    def phase(self, phase: Phase, steps: int, detail: str = "") -> None:
        """A phase of `steps` steps begins; `detail` sets it apart from others of its kind."""
        ...

    def step(self, text: str = "") -> None:
        """One step is done. Raises `core.errors.Cancelled` when the user asked to stop."""
        ...

    def message(self, text: str) -> None:
        """One line for the log."""
        ...


class SilentProgress:
    """A Progress that nobody watches and nobody cancels."""

    def phase(self, phase: Phase, steps: int, detail: str = "") -> None:
        """Nothing."""

    def step(self, text: str = "") -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""


class DiffusionHost(Protocol):
    """A loaded text-to-image model whose layers can be hooked while its own sampler runs."""

    @property
    def info(self) -> ModelInfo: ...

    def layers(self) -> Mapping[str, torch.nn.Module]:
        """Canonical layer name -> hookable module with a `weight` of 2 or 4 dimensions.

        Canonical names are diffusers module paths behind a component: `unet.down_blocks.0…attn1.to_q`,
        `text_encoder.text_model.encoder.layers.0.self_attn.q_proj`, `text_encoder_2…`.
        """
        ...

    def base_weight(self, name: str) -> Tensor:
        """Float32 CPU copy of a layer's unpatched weight, dequantised where needed; also after `ready`."""
        ...

    def encode(self, prompts: Sequence[str]) -> Any:
        """Run the text encoder (its hooks fire) and return the host's conditioning, one entry per prompt."""
        ...

    def run_cross_attention_kv(self, conditioning: Any) -> None:
        """Run the cheapest thing that makes every cross-attention K/V layer see `conditioning` (preset "text")."""
        ...

    def sample(self, request: SampleRequest, progress: Progress | None = None, *, conditioning: Any = None) -> Tensor:
        """Run the host's sampler (UNet hooks fire at every step) and return latents (n, c, h, w).

        `conditioning` overrides the prompts' own. Runs under no_grad or inference_mode and touches no global RNG.
        """
        ...

    def conditional_slice(self) -> slice | Tensor | None:
        """While a UNet call runs: which batch rows are the conditional branch (None: all of them)."""
        ...

    def token_mask(self) -> Tensor | None:
        """While the text encoder or K/V layers run: (batch, tokens), False on padding; None: not known."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pictures, uint8 (n, h, w, 3) on the CPU."""
        ...

    def ready(self) -> AbstractContextManager[None]:
        """Scope of a job: model on its device on entry, host exactly as before on exit, also after errors."""
        ...


@runtime_checkable
class DifferentiableHost(DiffusionHost, Protocol):
    """A host whose model lets gradients through, from its prediction back to what hooks add to its layers."""

    def sqrt_alphas_cumprod(self) -> Tensor:
        """alpha of every timestep, (timesteps,) float64: noisy = alpha clean + sqrt(1 - alpha^2) noise."""
        ...

    def predict_x0(self, latents: Tensor, timesteps: Sequence[int], prompts: Sequence[str]) -> Tensor:
        """The clean latents x0 (n, c, h, w), float32, that the conditional branch predicts from noisy ones.

        Row k is at timesteps[k]. Text encoder and UNet run in the grad mode that is on.
        """
        ...


HostOpener = Callable[[Path | None, str], DiffusionHost]
"""(checkpoint, device) -> loaded model. A WebUI's opener ignores both and hands out the model that is loaded."""


def resolve_device(text: str) -> torch.device:
    """`auto` is a CUDA GPU when there is one, else the CPU. Raises InputError for a device that is not there."""
    if text == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(text)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            "bad-device", f"The device '{text}' does not exist or cannot be used here.", key="device"
        ) from error
    return device
