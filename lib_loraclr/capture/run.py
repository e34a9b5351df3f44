"""`capture`: what every layer is given while each concept's prompts run, as second moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from lib_loraclr import cost
from lib_loraclr.capture import prompts
from lib_loraclr.capture.cache import TensorCache, digest, digest_deltas
from lib_loraclr.capture.concept import Concept
from lib_loraclr.capture.gather import Run, gather, needs_only_text, picture_size, shared_inputs
from lib_loraclr.capture.hooks import input_features
from lib_loraclr.capture.settings import CaptureSettings
from lib_loraclr.core.deltas import Delta
from lib_loraclr.core.errors import InputError, out_of_memory, release_memory
from lib_loraclr.core.methods.base import Statistics
from lib_loraclr.core.moments import SecondMoment, moment_dtype
from lib_loraclr.model import DiffusionHost, Phase, Progress

Moments = dict[str, SecondMoment]


@dataclass
class PassLimits:
    """Layers that are watched and pictures that run side by side in one pass; None: as many as there are.

    One object for all captures of a merge, so that a later round does not run into the same wall.
    """

    layers: int | None = None
    pictures: int | None = None

    @property
    def lowered(self) -> bool:
        """Whether the memory was not enough at least once."""
        return self.layers is not None

    def lower(self, layers: int, pictures: int) -> bool:
        """Halve what was too much; False when one layer and one picture were."""
        if layers <= 1 and pictures <= 1:
            return False
        self.layers = max(1, layers // 2)
        if pictures > 1:
            self.pictures = pictures // 2
        return True

    def of(self, settings: CaptureSettings) -> CaptureSettings:
        """The settings with no more pictures side by side than fit; features do not depend on it."""
        return settings if self.pictures is None else replace(settings, batch=min(settings.batch, self.pictures))


def capture(
    host: DiffusionHost,
    concepts: Sequence[Concept],
    settings: CaptureSettings,
    *,
    student: Mapping[str, Delta] | None = None,
    round: int = 0,  # noqa: A002
    progress: Progress | None = None,
    cache: TensorCache | None = None,
    limits: PassLimits | None = None,
) -> dict[str, Statistics]:
    """Statistics of every layer that a LoRA of `concepts` touches; call it inside `host.ready()`.

    Without `student` each concept's own LoRA runs (teacher inputs); with it the merged update runs for every prompt.
    `round` gives fresh seeds and prompts. One run's moments are in memory at a time, whatever the number of concepts:
    finished ones go to `cache` (or to a temporary folder that lives as long as the statistics) and are read when asked
    for. Layers that share their inputs share one `Statistics` object. Layers that the preset does not watch, that never
    ran, or that have too many inputs are missing from the result; the last two are named to `progress`.
    Where the memory is not enough a run is repeated with half the layers and pictures at a time; `limits` remembers.
    Raises InputError for a layer that the model lacks, and whatever `progress` raises to cancel; hooks are then gone.
    """
    cache = cache or TensorCache.temporary()
    leaders = _watched_layers(host, concepts, student, settings, progress)
    plan = _Plan(host, settings, cache, sorted(set(leaders.values())), limits or PassLimits())
    groups = planned_runs(concepts, settings, round, student)
    plan.add([run for runs in groups.values() for several in runs for run in several])
    plan.execute(progress)
    watched = {name: [plan.moments(runs) for runs in several] for name, several in groups.items()}
    by_leader: dict[str, Statistics] = {}
    for leader in plan.layers:
        held_out = [moments[leader] for moments in watched["held_out"] if leader in moments]
        by_leader[leader] = Statistics(
            [moments[leader] for moments in watched["concepts"]], watched["neutral"][0].get(leader), held_out or None
        )
    return {name: by_leader[leader] for name, leader in leaders.items()}


def combine(a: Mapping[str, Statistics], b: Mapping[str, Statistics]) -> dict[str, Statistics]:
    """Both captures together, moment by moment: the aggregated refinement. Sharing is kept.

    Held-out moments are those of `a` where it has them (they belong to the teacher); a layer of one capture only stays.
    """
    made: dict[tuple[int, int], Statistics] = {}
    result: dict[str, Statistics] = {}
    for name in dict.fromkeys([*a, *b]):
        if name not in a or name not in b:
            result[name] = a[name] if name in a else b[name]
            continue
        key = id(a[name]), id(b[name])
        if key not in made:
            made[key] = _sum(a[name], b[name])
        result[name] = made[key]
    return result


def _sum(a: Statistics, b: Statistics) -> Statistics:
    neutral = a.neutral.plus(b.neutral) if a.neutral and b.neutral else a.neutral or b.neutral
    concepts = [one.plus(other) for one, other in zip(a.concepts, b.concepts, strict=True)]
    return Statistics(concepts, neutral, a.held_out or b.held_out)


class _Plan:
    """Which run has to watch which layers, after what the cache already knows."""

    def __init__(
        self,
        host: DiffusionHost,
        settings: CaptureSettings,
        cache: TensorCache,
        layers: Sequence[str],
        limits: PassLimits,
    ) -> None:
        self.host, self.settings, self.cache, self.layers, self.limits = host, settings, cache, layers, limits
        modules = host.layers()
        value_bytes = moment_dtype(host.info.device).itemsize
        self._bytes = {name: value_bytes * input_features(modules[name]) ** 2 for name in layers}
        self._keys: dict[int, str] = {}
        self._digests: dict[int, str] = {}
        self._found: dict[str, Moments] = {}
        self._todo: list[tuple[Run, list[str]]] = []

    def add(self, runs: Sequence[Run]) -> None:
        """Look up every run and queue what is missing, in groups within the memory budget."""
        for run in runs:
            key = self._keys[id(run)] = self._key(run)
            if key in self._found:
                continue
            known = self._found[key] = dict[str, SecondMoment](self.cache.find(key))
            missing = [name for name in self.layers if needs_only_text(name) != run.sampled and name not in known]
            self._todo += [(run, group) for group in self._groups(missing)]

    def execute(self, progress: Progress | None) -> None:
        """Run everything that is queued; what is finished stays in the cache also when a later run is cancelled."""
        if progress is not None and self._todo:
            passes = max(len([1 for other, _ in self._todo if other is run]) for run, _ in self._todo)
            if passes > 1:
                size = sum(self._bytes.values()) >> 20
                progress.message(
                    f"{size} MiB of moments exceed the memory budget: every run is repeated {passes} times."
                )
            progress.phase(Phase.WATCH, sum(run_count(run, self.settings).steps for run, _ in self._todo))
        for run, group in self._todo:
            self._pass(run, group, progress)

    def moments(self, runs: Sequence[Run]) -> Moments:
        """Moments by layer, summed over runs that watch the same layer."""
        total: Moments = {}
        for run in runs:
            for name, moment in self._found[self._keys[id(run)]].items():
                total[name] = total[name].plus(moment) if name in total else moment
        return total

    def _pass(self, run: Run, group: Sequence[str], progress: Progress | None) -> None:
        """Watch a group of layers during one run; in several passes where the memory is not enough for one."""
        most = self.limits.layers or len(group)
        if len(group) > most:
            for first in range(0, len(group), most):
                self._pass(run, group[first : first + most], progress)
            return
        settings, about = self.limits.of(self.settings), {"prompts": run.prompts, "model": self.host.info.name}
        pictures = min(settings.batch, len(run.prompts)) if run.sampled else 1
        try:
            moments = gather(self.host, run, group, settings, progress)
            self._found[self._keys[id(run)]] |= self.cache.store(self._keys[id(run)], moments, about)
            return
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or not self.limits.lower(len(group), pictures):
                raise
        release_memory()
        if progress is not None:
            progress.message(f"The memory is full: going on with at most {self.limits.layers} layers at a time.")
        self._pass(run, group, progress)

    def _groups(self, names: Sequence[str]) -> list[list[str]]:
        remaining = iter(names)
        sizes = cost.groups([self._bytes[name] for name in names], self.settings.memory_budget_mib * 2**20)
        return [list(islice(remaining, size)) for size in sizes]

    def _key(self, run: Run) -> str:
        s, info = self.settings, self.host.info
        if id(run.deltas) not in self._digests:
            self._digests[id(run.deltas)] = digest_deltas(run.deltas)
        model = [info.weights, str(info.dtype), self._digests[id(run.deltas)], run.prompts]
        if not run.sampled:
            return digest("text", model, s.padding_weight)
        return digest("sample", model, run.seeds, s.steps, picture_size(self.host, s), s.cfg_scale, s.sampler)


def _watched_layers(
    host: DiffusionHost, concepts: Sequence[Concept], student: Mapping[str, Delta] | None,
    settings: CaptureSettings, progress: Progress | None,
) -> dict[str, str]:  # fmt: skip
    """Layer -> leader, for the layers that are touched, run, and are not too wide."""
    modules, leaders = host.layers(), shared_inputs(host, settings)
    touched = sorted({name for deltas in (*(c.deltas for c in concepts), student or {}) for name in deltas})
    unknown = [name for name in touched if name not in modules]
    if unknown:
        raise InputError("unknown-layer", f"{host.info.name} has no layer {unknown[0]}.", key=unknown[0])
    if settings.preset == "text":
        touched = [name for name in touched if needs_only_text(name)]
    silent = [name for name in touched if name not in leaders]
    wide = [
        name for name in touched if name in leaders and input_features(modules[name]) > settings.max_features
    ]  # fmt: skip
    if progress is not None:
        for names, reason in ((silent, "never ran"), (wide, f"have more than {settings.max_features} inputs")):
            if names:
                progress.message(
                    f"{len(names)} layers are not captured because they {reason}: {', '.join(names[:3])} …"
                )
    return {name: leaders[name] for name in touched if name in leaders and name not in set(wide)}


def planned_runs(
    concepts: Sequence[Concept], settings: CaptureSettings, number: int, student: Mapping[str, Delta] | None = None
) -> dict[str, list[list[Run]]]:
    """Everything that round `number` asks: runs of each concept, of neutral prompts, and held out (teachers only)."""
    return {
        "concepts": [concept_runs(c, c.deltas if student is None else student, settings, number) for c in concepts],
        "neutral": [neutral_runs(concepts, student or {}, settings, number)],
        "held_out": [held_out_runs(c, c.deltas, settings) for c in concepts] if student is None and not number else [],
    }


def run_count(run: Run, settings: CaptureSettings) -> cost.Count:
    """What one run asks of the model."""
    if not run.sampled:
        return cost.texts_read(len(run.prompts))
    guided = settings.cfg_scale != 1.0
    return cost.sampled(len(run.prompts), steps=settings.steps, batch=settings.batch, guided=guided)


def concept_runs(concept: Concept, deltas: Mapping[str, Delta], settings: CaptureSettings, number: int) -> list[Run]:
    """What a concept is asked in round `number`: a run of text alone, and with the preset "full" one of pictures."""
    called = concept.phrase
    many, few, _ = prompts.templates_for(concept.kind, called, settings.templates)
    if concept.prompts:
        many = few = concept.prompts
    count = len(settings.text_templates)  # the same for every concept, whatever its own templates
    runs = [Run(prompts.filled(many, called, number * (count + 1), count), (), deltas)]
    if settings.preset == "full":
        drawn = prompts.filled(few, called, number * settings.prompts, settings.prompts)
        runs.append(Run(drawn, _seeds(settings, 0, number, settings.prompts), deltas))
    return runs


def held_out_runs(concept: Concept, deltas: Mapping[str, Delta], settings: CaptureSettings) -> list[Run]:
    """What a concept is asked when a merge is judged: templates and seeds that no round has."""
    called, count = concept.phrase, settings.held_out_prompts
    templates = prompts.templates_for(concept.kind, called, settings.templates).held_out
    runs = [Run(prompts.filled(templates, called, 0, len(templates)), (), deltas)]
    if settings.preset == "full" and count:
        runs.append(Run(prompts.filled(templates, called, 0, count), _seeds(settings, 1, 0, count), deltas))
    return runs


def neutral_runs(
    concepts: Sequence[Concept], deltas: Mapping[str, Delta], settings: CaptureSettings, number: int
) -> list[Run]:
    """The same for what no LoRA may change: scenes, and the class words of the concepts."""
    words = [concept.class_word for concept in concepts if concept.kind != "style"]
    texts = prompts.neutral(words, settings.scenes)
    runs, count = [Run(texts, (), deltas)] if texts else [], settings.neutral_prompts
    if texts and settings.preset == "full" and count:
        drawn = prompts.in_turn(texts, number * count, count)
        runs.append(Run(drawn, _seeds(settings, 2, number, count), deltas))
    return runs


def _seeds(settings: CaptureSettings, stream: int, number: int, count: int) -> tuple[int, ...]:
    """Seeds of the pictures: the same for every concept, fresh for every round and kind of prompt."""
    first = settings.seed + 1_000_000 * stream + 1000 * number
    return tuple(range(first, first + count))
