"""What every stage of a merge works on: its configuration, its inputs, and the model where it needs one."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from lib_loraclr.capture import PassLimits, TensorCache
from lib_loraclr.capture.concept import Concept
from lib_loraclr.core.deltas import LayerShape
from lib_loraclr.core.problem import LayerProblem, Statistics
from lib_loraclr.formats import FileWarning, LoraFile
from lib_loraclr.formats.weighted import check_families, family_of, host_shapes, needs_base, read_files
from lib_loraclr.merging.config import MergeConfig
from lib_loraclr.merging.inputs import MergeInput, make_inputs, read_inputs, require_triggers, shapes_without_model
from lib_loraclr.merging.options import MergeOptions
from lib_loraclr.model import DiffusionHost, HostOpener, ModelInfo, Phase, Progress
from lib_loraclr.timing import Stopwatch


@dataclass(frozen=True)
class MergeContext:
    """Handed from stage to stage. `shapes`: of every layer, by canonical name; `cache`: of statistics, learned
    factors and evaluations; `limits`: what the memory left of a pass of the capture.
    `host` is None where no stage needs a model, and active only where a stage enters `host.ready()`.
    """

    config: MergeConfig
    progress: Progress
    timing: Stopwatch
    inputs: list[MergeInput]
    shapes: Mapping[str, LayerShape]
    warnings: list[FileWarning]
    cache: TensorCache
    host: DiffusionHost | None = None
    limits: PassLimits = field(default_factory=PassLimits)

    @property
    def acting(self) -> list[MergeInput]:
        """The inputs whose weights are not all zero."""
        return [item for item in self.inputs if item.concept.deltas]

    @property
    def concepts(self) -> list[Concept]:
        """Those of the acting inputs: what is merged."""
        return [item.concept for item in self.acting]

    @property
    def model(self) -> ModelInfo | None:
        """The checkpoint, where the merge needed one."""
        return self.host.info if self.host is not None else None

    @property
    def family(self) -> str:
        """Base family of the result."""
        return family_of([item.lora for item in self.inputs], self.model.family if self.model else None)

    def problems(self, statistics: Mapping[str, Statistics]) -> list[LayerProblem]:
        """One per layer that any concept changes, sorted by name."""
        deltas = [concept.deltas for concept in self.concepts]
        return [
            LayerProblem(name, self.shapes[name], [of_concept.get(name) for of_concept in deltas], statistics.get(name))
            for name in sorted(set().union(*deltas))
        ]


@contextmanager
def open_context(config: MergeConfig, open_host: HostOpener, progress: Progress) -> Generator[MergeContext]:
    """The inputs, read and checked. Inside the scope the model, where the merge needs one, is ready to run.

    Raises InputError for all that is wrong with the files or between them and the checkpoint.
    """
    options, timing = config.options, Stopwatch()
    cache = TensorCache(options.cache or TensorCache.default_folder())
    with timing("read"):
        progress.phase(Phase.READ, 1)
        loras = read_inputs(options.lora)
        progress.step()
    if not (config.samples or needs_base(loras) or options.checkpoint):
        with timing("read"):
            inputs, warnings = make_inputs(options.lora, loras, None, None)
        yield MergeContext(config, progress, timing, inputs, shapes_without_model(inputs), warnings, cache)
        return
    with ExitStack() as stack:
        with timing("load"):
            progress.phase(Phase.LOAD, 1)
            host = open_host(options.checkpoint, str(config.device))
            stack.enter_context(host.ready())
            progress.step()
        with timing("read"):
            shapes = host_shapes(host)
            inputs, warnings = make_inputs(options.lora, _for_model(loras, host, options), host.base_weight, shapes)
        if config.samples:
            require_triggers(inputs)
        yield MergeContext(config, progress, timing, inputs, shapes, warnings, cache, host)


def _for_model(loras: list[LoraFile], host: DiffusionHost, options: MergeOptions) -> list[LoraFile]:
    """With the model's own layer names where the names that were understood without it do not all exist there."""
    check_families(loras, host.info.family)
    known = host.layers()
    if all(name in known for lora in loras for name in lora.layers):
        return loras
    return read_files([choice.file for choice in options.lora], known)
