"""Reading the inputs and watching the model: everything that a merge knows before it solves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from lib_loraclr.capture import StatisticsCache
from lib_loraclr.core.deltas import LayerShape
from lib_loraclr.core.problem import LayerProblem
from lib_loraclr.formats import FileWarning, LoraFile
from lib_loraclr.formats.shapes import shape_without_model
from lib_loraclr.formats.weighted import check_families, family_of, host_shapes, needs_base, read_files
from lib_loraclr.merging.config import Plan
from lib_loraclr.merging.inputs import Concept, make_concepts, read_inputs, require_triggers
from lib_loraclr.merging.options import MergeOptions
from lib_loraclr.merging.solve import Gathered, gather, problems_of
from lib_loraclr.model import DiffusionHost, ModelInfo, Phase, Progress
from lib_loraclr.opening import HostOpener
from lib_loraclr.timing import Stopwatch


@dataclass(frozen=True)
class Task:
    """What is known once the inputs are read and the model, where one is needed, has been watched."""

    concepts: list[Concept]
    shapes: Mapping[str, LayerShape]
    statistics: Gathered
    warnings: list[FileWarning]
    host: DiffusionHost | None
    cache: StatisticsCache | None = None

    @property
    def model(self) -> ModelInfo | None:
        """The checkpoint, where the merge needed one."""
        return self.host.info if self.host is not None else None

    @property
    def model_layers(self) -> list[str] | None:
        """The names of its layers."""
        return list(self.host.layers()) if self.host is not None else None

    @property
    def acting(self) -> list[Concept]:
        """The concepts whose weights are not all zero."""
        return [concept for concept in self.concepts if concept.deltas]

    @property
    def problems(self) -> list[LayerProblem]:
        """Every layer with everything that was gathered."""
        return problems_of(self.acting, self.shapes, self.statistics.all)

    @property
    def family(self) -> str:
        """Base family of the result."""
        return family_of([concept.lora for concept in self.concepts], self.model.family if self.model else None)


def prepare(plan: Plan, open_host: HostOpener, progress: Progress, watch: Stopwatch) -> Task:
    """Read and check the inputs, open the model where the merge needs one, and gather statistics."""
    options = plan.options
    with watch("read"):
        progress.phase(Phase.READ, 1)
        loras = read_inputs(options.lora)
        progress.step()
    if not (plan.samples or needs_base(loras) or options.checkpoint):
        with watch("read"):
            concepts, warnings = make_concepts(options.lora, loras, None, None)
        shapes = _shapes_without_model(concepts)
        return Task(concepts, shapes, Gathered({}, {}), warnings, None)
    with ExitStack() as stack:
        with watch("load"):
            progress.phase(Phase.LOAD, 1)
            host = open_host(options.checkpoint, str(plan.device))
            stack.enter_context(host.ready())
            progress.step()
        with watch("read"):
            loras = _reread(loras, host, options)
            shapes = host_shapes(host)
            concepts, warnings = make_concepts(options.lora, loras, host.base_weight, shapes)
        found, cache = Gathered({}, {}), None
        if plan.samples:
            require_triggers(concepts)
            cache = StatisticsCache(options.cache or StatisticsCache.default_folder())
            acting = [concept for concept in concepts if concept.deltas]
            found = gather(host, acting, shapes, plan, cache=cache, progress=progress, watch=watch)
        return Task(concepts, shapes, found, warnings, host, cache)


def _reread(loras: list[LoraFile], host: DiffusionHost, options: MergeOptions) -> list[LoraFile]:
    """With the model's own layer names where the names that were understood without it do not all exist there."""
    check_families(loras, host.info.family)
    known = host.layers()
    if all(name in known for lora in loras for name in lora.layers):
        return loras
    return read_files([choice.file for choice in options.lora], known)


def _shapes_without_model(concepts: Sequence[Concept]) -> dict[str, LayerShape]:
    family = family_of([concept.lora for concept in concepts], None)
    shapes: dict[str, LayerShape] = {}
    for concept in concepts:
        for name, delta in concept.deltas.items():
            if name not in shapes:
                updates = [other.lora.layers[name] for other in concepts if name in other.lora.layers]
                shapes[name] = shape_without_model(name, delta, updates, family)
    return shapes
