"""Regions in Forge and its relatives: rows from `cond_or_uncond`, everything else on a clone of the UNet's patcher.

The clone's function wrapper opens and closes the runtime around every model call, so that nothing is active outside;
the host itself drops the clone before the next pass. Closures only: cloning copies `model_options` deeply, and a bound
method would be copied with its object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from lib_loraclr.hosts.webui.regional import WebuiRegional
from lib_loraclr.regional.conditions import BatchRow
from lib_loraclr.regional.port import Note
from lib_loraclr.regional.runtime import RegionalRuntime
from lib_loraclr.regional.sites import AttentionBlock
from lib_loraclr.regional.texts import TextSchedules

STAGES = {"input": "input_blocks", "output": "output_blocks", "middle": "middle_block"}


class ForgeRegional(WebuiRegional):
    """Regions on a clone of the patcher, in every WebUI whose models carry `forge_objects`."""

    def unet(self, p: Any) -> nn.Module:
        """The UNet behind the patcher."""
        return p.sd_model.forge_objects.unet.model.diffusion_model

    def start(self, p: Any, runtime: RegionalRuntime, texts: TextSchedules, note: Note) -> ForgePass:
        """Put a patched clone in the working copy that the sampler takes next."""
        started = ForgePass(p, runtime, texts, note)
        patcher = p.sd_model.forge_objects.unet.clone()
        patcher.set_model_unet_function_wrapper(started.wrapper(patcher.model_options.get("model_function_wrapper")))
        for key, replacement in replacements(patcher):
            block, number, *index = key
            wrapped = started.around(replacement)
            patcher.set_model_attn2_replace(wrapped, block, number, *index)
        if runtime.region_weights.guides:
            patcher.set_model_sampler_post_cfg_function(started.guidance())
        p.sd_model.forge_objects.unet = patcher
        return started


class ForgePass:
    """One sampling pass."""

    def __init__(self, p: Any, runtime: RegionalRuntime, texts: TextSchedules, note: Note) -> None:
        self._p, self._runtime, self._texts, self._note = p, runtime, texts, note
        self._unet = p.sd_model.forge_objects.unet.model.diffusion_model
        self._blocks = {block.name: block for block in runtime.sites.blocks}
        self._progress = 0.0
        self._active = False
        self._guided = False

    @property
    def ours(self) -> bool:
        """Whether the loaded UNet is still the hooked one; a refiner is another."""
        from modules import shared

        model: Any = shared.sd_model
        return model.forge_objects.unet.model.diffusion_model is self._unet

    def step(self, params: Any) -> None:
        """Take the texts of this step."""
        denoiser = params.denoiser
        self._progress = denoiser.step / max(1, denoiser.total_steps)
        self._runtime.begin_step(self._progress, self._texts.at(denoiser.step))
        self._active, self._guided = True, False

    def stop(self) -> None:
        """The clone may live on in the host's working copy; from here on it does nothing."""
        self._active = False

    def wrapper(self, previous: Callable[..., Any] | None) -> Callable[..., Any]:
        """A model function wrapper around the one that was there."""

        def call(apply_model: Callable[..., Any], given: dict[str, Any]) -> Any:
            def run() -> Any:
                if previous is not None:
                    return previous(apply_model, given)
                return apply_model(given["input"], given["timestep"], **given["c"])

            rows = self._rows(given["input"], given["cond_or_uncond"])
            if not rows:
                return run()
            self._guided = self._guided or not all(row.conditional for row in rows)
            with self._runtime.calling(rows):
                return run()

        return call

    def around(self, replacement: Callable[..., Any]) -> Callable[..., Any]:
        """An attention replacement (IP-Adapter and others) that answers for every region, its own part added once."""

        def replaced(queries: Tensor, keys: Tensor, values: Tensor, options: dict[str, Any]) -> Tensor:
            output = replacement(queries, keys, values, options)
            block = self._block(options)
            if block is None or not self._active:
                return output
            layer: Any = block.attn2

            def attend(context: Tensor) -> Tensor:
                return replacement(queries, layer.to_k(context), layer.to_v(context), options)

            return self._runtime.mix_replaced(block, queries, output, attend)

        return replaced

    def guidance(self) -> Callable[[dict[str, Any]], Tensor]:
        """A post-CFG function that gives every cell its own CFG scale."""

        def guided(given: dict[str, Any]) -> Tensor:
            denoised: Tensor = given["denoised"]
            if not self._active or not self._guided:
                return denoised
            scale = self._scale()
            found = self._runtime.region_weights.guidance(denoised.shape[-2], denoised.shape[-1], self._progress, scale)
            if found is None:
                return denoised
            step = given["cond_denoised"] - given["uncond_denoised"]
            return denoised + (found - scale).to(denoised) * step

        return guided

    def _scale(self) -> float:
        hires = getattr(self._p, "is_hr_pass", False) and getattr(self._p, "hr_cfg", None)
        return float(self._p.hr_cfg if hires else self._p.cfg_scale)

    def _rows(self, latents: Tensor, chunks: Sequence[int]) -> list[BatchRow]:
        """Rows of a call, one chunk of all pictures for every entry of `cond_or_uncond`; none if it is not ours."""
        region_weights = self._runtime.region_weights
        if not self._active or not chunks or latents.shape[0] % len(chunks):
            return []
        if tuple(latents.shape[-2:]) != (region_weights.height, region_weights.width):
            self._note("Another extension cuts the picture into tiles; regions cannot act there.")
            return []
        pictures = latents.shape[0] // len(chunks)
        return [BatchRow(picture, chunk == 0) for chunk in chunks for picture in range(pictures)]

    def _block(self, options: dict[str, Any]) -> AttentionBlock | None:
        """The block that runs, from the host's own names: ("input", 4), and which transformer block of it."""
        stage, number = (options.get("block") or ("", 0))[:2]
        index = options.get("block_index", options.get("transformer_index", 0))
        middle = "middle_block.1" if stage == "middle" else f"{STAGES.get(stage)}.{number}.1"
        return self._blocks.get(f"{middle}.transformer_blocks.{index}")


def replacements(patcher: Any) -> list[tuple[tuple[Any, ...], Callable[..., Any]]]:
    """(key, function) of every cross-attention replacement that other extensions have set."""
    options = patcher.model_options.get("transformer_options", {})
    return list(options.get("patches_replace", {}).get("attn2", {}).items())
