"""Regions in A1111: batch rows by a cursor, its own forward hooks, guidance in `on_cfg_denoised`.

A1111's denoiser lays out its batch as all conditional rows, picture by picture with the parts of `AND` side by side,
then one unconditional row a picture, and feeds the model from front to back in one call or several
(modules/sd_samplers_cfg_denoiser.py:202-271 of v1.10.1). So counting rows tells whose they are, in every mode of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from modules import shared
from torch import Tensor, nn

from lib_loraclr.hosts.webui.regional import WebuiRegional
from lib_loraclr.regional.conditions import BatchRow
from lib_loraclr.regional.port import Note
from lib_loraclr.regional.runtime import RegionalRuntime
from lib_loraclr.regional.texts import TextSchedules


class A1111Regional(WebuiRegional):
    """Regions by hooks on the UNet of the loaded checkpoint."""

    def refusal(self) -> str | None:
        """A replacement UNet (TensorRT) bypasses the modules that regions hook."""
        from modules import sd_unet

        if getattr(sd_unet, "current_unet", None) is not None:
            return "Regions cannot act in a replacement UNet such as TensorRT; set 'SD Unet' to None."
        return None

    def unet(self, p: Any) -> nn.Module:
        """The UNet of the loaded checkpoint."""
        model: Any = shared.sd_model
        return model.model.diffusion_model

    def start(self, p: Any, runtime: RegionalRuntime, texts: TextSchedules, note: Note) -> A1111Pass:
        """Hook the UNet's own calls."""
        return A1111Pass(self.unet(p), runtime, texts, note)

    def text_scope(self, host: Any) -> AbstractContextManager[None]:
        """OpenCLIP's blocks are taken apart."""
        return host.text_layers_apart()


class A1111Pass:
    """One sampling pass."""

    def __init__(self, unet: nn.Module, runtime: RegionalRuntime, texts: TextSchedules, note: Note) -> None:
        self._unet, self._runtime, self._texts, self._note = unet, runtime, texts, note
        self._rows: Sequence[BatchRow] = ()
        self._cursor = 0
        self._progress = 0.0
        self._scale = 1.0
        self._handles = [  # before the runtime's own hooks, which need to know whose rows these are
            unet.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True),
            unet.register_forward_hook(self._after, always_call=True),
        ]

    @property
    def ours(self) -> bool:
        """Whether the loaded UNet is still the hooked one; a refiner is another."""
        model: Any = shared.sd_model
        return model.model.diffusion_model is self._unet

    def step(self, params: Any) -> None:
        """Note whose the rows of this step are."""
        denoiser = params.denoiser
        parts = [len(conds) for conds in denoiser.sampler.sampler_extra_args["cond"].batch]
        rows = batch_rows(parts)
        self._cursor = 0
        if len(rows) != params.x.shape[0]:
            self._rows = ()
            self._note("Regions do not act in models that edit pictures by instruction.")
            return
        self._rows = rows
        self._progress = denoiser.step / max(1, denoiser.total_steps)
        self._scale = float(denoiser.p.cfg_scale) * float(getattr(denoiser, "cond_scale_miltiplier", 1.0))
        self._runtime.begin_step(self._progress, self._texts.at(denoiser.step))

    def guide(self, params: Any) -> None:
        """Give every cell its own CFG scale: the host's formula then works on c' = u + (map / scale) (c - u)."""
        rows, region_weights = self._rows, self._runtime.region_weights
        outputs: Tensor = params.x
        if not rows or not region_weights.guides or abs(self._scale) < 1e-6 or outputs.shape[0] != len(rows):
            return
        found = region_weights.guidance(outputs.shape[-2], outputs.shape[-1], self._progress, self._scale)
        if found is None:
            return
        factor = (found / self._scale).to(outputs)[0]
        unconditional = {row.picture: index for index, row in enumerate(rows) if not row.conditional}
        for index, row in enumerate(rows):
            if row.conditional:
                empty = outputs[unconditional[row.picture]]
                outputs[index] = empty + factor * (outputs[index] - empty)

    def stop(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _before(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        latents: Tensor = inputs[0] if inputs else named["x"]
        rows = self._rows[self._cursor : self._cursor + latents.shape[0]]
        if len(rows) < latents.shape[0]:
            return  # a pass of another extension, after all rows of this step
        if tuple(latents.shape[-2:]) != (self._runtime.region_weights.height, self._runtime.region_weights.width):
            self._rows = ()
            self._note("Another extension cuts the picture into tiles; regions cannot act there.")
            return
        self._cursor += latents.shape[0]
        self._runtime.begin_call(rows)

    def _after(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._runtime.end_call()


def batch_rows(parts: Sequence[int]) -> list[BatchRow]:
    """Rows of a denoiser's batch; `parts[i]` is how many prompts `AND` makes of picture i's."""
    conditional = [BatchRow(picture, True) for picture, count in enumerate(parts) for _ in range(count)]
    return conditional + [BatchRow(picture, False) for picture in range(len(parts))]
