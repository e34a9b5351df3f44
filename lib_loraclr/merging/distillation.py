"""The preset distilled: what the merged LoRA learns from the single ones, through the whole model.

It starts from gradient fusion, which knows neither margin nor rank, and is added to the method's solution as a
difference. So it is learned once for the same LoRAs, and a merge with another margin or rank finds it in the cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import NamedTuple

from lib_loraclr.capture import TensorCache
from lib_loraclr.capture.cache import digest, digest_deltas
from lib_loraclr.core.deltas import Delta, LowRank, add
from lib_loraclr.core.errors import InputError, out_of_memory, release_memory
from lib_loraclr.core.fidelity import ConceptFidelity, summarise
from lib_loraclr.core.merge import MergedLayer
from lib_loraclr.distill import Distilled, HeldOutEvaluation, build_dataset, distill
from lib_loraclr.distill.data import dataset_count
from lib_loraclr.formats import FileWarning
from lib_loraclr.merging.context import MergeContext
from lib_loraclr.merging.solve import CapturedInputs, solve_student
from lib_loraclr.model import DifferentiableHost, Phase

UNSEEN = ("held_out_prompts", "memory_budget_mib")  # capture settings that change nothing of what is learned


@dataclass(frozen=True)
class Distillation:
    """What is added to the solution of every layer, and the evaluation that tells what the whole then keeps.

    Both None where nothing was distilled, with a warning that says why where the memory does not suffice for a single
    row or gradients do not get through the model.
    """

    correction: Mapping[str, Delta] | None = None
    evaluation: HeldOutEvaluation | None = None
    warnings: Sequence[FileWarning] = ()

    def measure(self, context: MergeContext, layers: Mapping[str, MergedLayer]) -> list[ConceptFidelity]:
        """What these layers keep of each concept: in the model's predictions, or without an evaluation in features."""
        host = context.host
        if self.evaluation is None or not isinstance(host, DifferentiableHost):
            return summarise(layer.fidelity for layer in layers.values())
        with host.ready():
            return self.evaluation.scores(host, {name: layer.delta for name, layer in layers.items()})


def distil(context: MergeContext, captured: CapturedInputs) -> Distillation:
    """Distil, or find what an earlier merge of the same LoRAs has learned; the host is as before."""
    if not context.config.distill.total_steps:
        return Distillation()
    with context.timing("solve"):
        start = solve_student(context, captured.all, "start of the distillation")
    try:
        with context.timing("distill"):
            update, evaluation = _learned(context, start)
    except InputError as error:
        if error.code != "no-gradients":
            raise
        message = f"{error.message} The merge is the one before distillation."
        return Distillation(warnings=[FileWarning(error.code, message, key="preset")])
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        message = "The memory was not enough for the distillation; the file is the merge before it."
        return Distillation(warnings=[FileWarning("memory-distill", message, key="preset")])
    finally:
        release_memory()
    correction = {name: add([update[name], delta.scaled(-1.0)]) for name, delta in start.items()}
    return Distillation(correction, evaluation)


def _learned(context: MergeContext, start: Mapping[str, Delta]) -> tuple[Mapping[str, LowRank], HeldOutEvaluation]:
    """The learned update and the evaluation, each from the cache where it is there."""
    config, host, cache, progress = context.config, context.host, context.cache, context.progress
    if not isinstance(host, DifferentiableHost):
        raise InputError("no-gradients", "This program's model gives no gradients.", key="preset")
    concepts, settings, keys = context.concepts, config.distill, _cache_keys(context)
    evaluation, update = HeldOutEvaluation.find(cache, keys.evaluation), _find_update(cache, keys.update)
    with host.ready():
        if evaluation is None:
            evaluation = HeldOutEvaluation.build(host, concepts, settings, config.capture, progress)
            evaluation.store(cache, keys.evaluation)
        if update is None:
            progress.phase(Phase.DRAW, dataset_count(len(concepts), settings, config.capture).steps)
            dataset = build_dataset(host, concepts, settings, config.capture, progress)
            progress.phase(Phase.LEARN, settings.total_steps)
            distilled = distill(host, start, dataset, settings, progress, seed=config.options.seed)
            progress.message(_about(distilled))
            update = distilled.deltas
            _store_update(cache, keys.update, update)
    return update, evaluation


def _about(distilled: Distilled) -> str:
    few = max(1, len(distilled.losses) // 10)
    before, after = fmean(distilled.losses[:few]), fmean(distilled.losses[-few:])
    return f"Distilled: what the merge mispredicts went from {before:.4f} to {after:.4f}."


def _store_update(cache: TensorCache, key: str, update: Mapping[str, LowRank]) -> None:
    tensors = {f"{name}.up": delta.up for name, delta in update.items()}
    tensors |= {f"{name}.down": delta.down for name, delta in update.items()}
    cache.store_tensors(key, "factors", tensors, {"layers": sorted(update)})


def _find_update(cache: TensorCache, key: str) -> dict[str, LowRank] | None:
    """What an earlier merge has learned; None where it is damaged, too."""
    stored = cache.find_tensors(key, "factors")
    if stored is None:
        return None
    tensors, notes = stored
    try:
        return {name: LowRank(tensors[f"{name}.up"], tensors[f"{name}.down"]) for name in notes["layers"]}
    except (KeyError, TypeError):
        return None


class _CacheKeys(NamedTuple):
    """Of the learned update, and of the evaluation: names of everything that decides them."""

    update: str
    evaluation: str


def _cache_keys(context: MergeContext) -> _CacheKeys:
    config, model = context.config, context.model
    assert model is not None
    loras = [
        (c.name, c.trigger, c.class_word, c.kind, c.prompts, digest_deltas(c.deltas)) for c in context.concepts
    ]  # fmt: skip
    capture = {name: value for name, value in asdict(config.capture).items() if name not in UNSEEN}
    seen = [model.weights, str(model.dtype), loras, capture]
    # as many text steps as steps, or more, do nothing
    slowdown = min(config.distill.text_encoder_slowdown_after, config.distill.total_steps)
    learning = replace(config.distill, text_encoder_slowdown_after=slowdown)
    pictures = (learning.exam, learning.exam_levels, learning.cfg_scale)
    return _CacheKeys(
        digest("distilled", *seen, config.student_options, config.rounds, asdict(learning), config.options.seed),
        digest("evaluation", *seen, *pictures),
    )
