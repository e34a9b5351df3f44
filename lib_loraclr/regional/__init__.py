"""Regional prompting as pure tensor code: where each prompt acts, and how its attention is mixed in.

The value that everything starts from is `RegionalSpec` (JSON version 1: `parse_spec`, `dump_spec`).

What an adapter of a host does, in this order:

1. **Before a pass** (once for txt2img, once more for hires):
   `weights = RegionWeights(spec, height, width)` with the size of the latents, then
   `runtime = RegionalRuntime(weights, find_sites(unet))` and `runtime.install()`; `runtime.remove()` in every exit path
   (success, error, interrupt), or `with runtime.installed():`. `find_sites` knows the modules of A1111, Forge, reForge
   and diffusers by their attributes. A spec without active regions installs nothing (`runtime.idle`).
2. **At the start of every sampling step**, after `install`: `runtime.begin_step(progress, conditions)`. `progress` in
   [0, 1) is step / steps; windows of time are half-open. `conditions[k]` is for picture k of the batch: a `RegionText`
   per region of `weights.regions`, with the encoded prompt (`positive`) and, only where it differs from the picture's
   own negative, the encoded negative (`negative`, else None: those rows are not computed again). An `Encoded` has
   `context` (tokens, width), or a list of them, one per cross-attention layer in the order down, middle, up (ED-LoRA),
   and for SDXL `pooled` (features,). Prompt schedules are the adapter's: it passes what holds at this step.
3. **Before every call of the UNet**: `runtime.begin_call(rows)`, one `BatchRow(picture, conditional)` per row in the
   order of the batch; **after it** `runtime.end_call()`. Rows of `AND` sub-prompts name the same picture. While no
   call is open the hooks do nothing, so extra passes of other extensions are left alone. Where subjects are pictures
   of their own (`isolation.separate_until`), hooks on the UNet itself ask it for each; an adapter that has hooks
   there, too, must have called `begin_call` by then.
4. **Per attention layer** nothing: the hooks do it. Where a host bypasses `attn2` (Forge's replace patches), the
   adapter wraps the replacement: `runtime.mix_replaced(block, queries, output, attend)`, see there.
5. **Guidance**: `weights.guidance(height, width, progress, scale)` is None, or the map (1, 1, h, w) that takes the
   place of the CFG scale: d = u + map * (c - u).
6. `runtime.notes` are sentences for the user about what could not be done.
7. **LoRAs of one region** (optional): `runtime.install(loras=...)` with `RegionDeltas`, see `regional/lora.py`; their
   text-encoder part is the adapter's, active while it encodes that region.

Texts are `texts.region_prompts(spec, prompt, negative)`: what to encode for every region.
"""

from __future__ import annotations

from lib_loraclr.regional.parse import parse_spec, validate_spec
from lib_loraclr.regional.shapes import Box, Mask, Polygon, Shape
from lib_loraclr.regional.spec import (
    VERSION,
    BaseRules,
    Hires,
    Isolation,
    Region,
    RegionalSpec,
    RegionLora,
)
from lib_loraclr.regional.write import dump_spec, shape_as_json, spec_as_json, spec_schema

__all__ = [
    "VERSION", "BaseRules", "Box", "Hires", "Isolation", "Mask", "Polygon", "Region", "RegionLora", "RegionalSpec",
    "Shape", "dump_spec", "parse_spec", "shape_as_json", "spec_as_json", "spec_schema", "validate_spec",
]  # fmt: skip
