"""Merging all layers: solve, choose ranks, truncate, measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from lib_loraclr.core.deltas import Delta, LowRank, add
from lib_loraclr.core.errors import LoraclrError, out_of_memory, release_memory
from lib_loraclr.core.fidelity import ConceptFidelity, fidelity
from lib_loraclr.core.fusion import activation_gram
from lib_loraclr.core.linalg import balanced, exact_float32
from lib_loraclr.core.methods import complete_options, get_method
from lib_loraclr.core.methods.base import MergeMethod
from lib_loraclr.core.problem import LayerProblem, LayerSolution
from lib_loraclr.core.rank import RankPolicy, allocate, bytes_per_rank, spectrum, truncate

T = TypeVar("T")
FALLBACK = "average"  # with every second moment unknown (the identity), gradient fusion's closed form is the average


@dataclass(frozen=True)
class MergedLayer:
    """A merged layer (float32, CPU), what the solver said, and what its solution keeps of each concept.

    A correction is no part of `fidelity`: it makes up in one layer for what others lose, which no layer's inputs tell.
    """

    delta: Delta
    info: dict[str, Any] = field(default_factory=dict)
    fidelity: list[ConceptFidelity] | None = None


def merge_layers(
    problems: Sequence[LayerProblem],
    method: str,
    options: Mapping[str, Any] | None = None,
    *,
    rank: RankPolicy | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    bytes_per_value: int = 2,
    correction: Mapping[str, Delta] | None = None,
    on_layer: Callable[[str], None] | None = None,
    measure: bool = True,
) -> dict[str, MergedLayer]:
    """Merge every layer and cut it to its rank; layers by name, sorted, the same bits whatever the order given.

    `correction` is added to the solutions, whose own ranks stay (the metric of the truncation is that of the inputs).
    Layers without statistics are averaged when the method needs some (info says so). `bytes_per_value` is that of the
    file, for `size=`. `on_layer(name)` is called before each layer; whatever it raises ends the merge and passes
    through. Without `measure` no fidelity is computed, which is half the work of a closed form. A layer that does not
    fit on the device is done on the CPU (info says so). Raises InputError for a wrong method, option or size.
    """
    chosen, policy = get_method(method), rank or RankPolicy()
    device = "cpu" if torch.device(device).type == "mps" else device  # Apple's MPS has no float64
    complete = complete_options(chosen, options or {})
    ordered = sorted(problems, key=lambda problem: problem.name)
    together = policy.kind in ("energy", "size")  # ranks are shared out among layers, once all are solved
    fixed = int(policy.value) if policy.kind == "fixed" else None
    solved: dict[str, LayerSolution] = {}
    corrected: dict[str, Delta] = {}
    merged: dict[str, MergedLayer] = {}
    spectra: dict[str, Tensor] = {}
    crowded: set[str] = set()
    with exact_float32():
        for problem in ordered:  # layers of equal shape could be one batch here; on a GPU that saves launches
            name, full = problem.name, partial(crowded.add, problem.name)
            if on_layer is not None:
                on_layer(name)
            solution = solved[name] = on_device(device, partial(_solve, problem, chosen, complete, seed), full)
            corrected[name] = solution.delta
            if correction is not None and name in correction:
                step = partial(_corrected, problem, solution.delta, correction[name])
                corrected[name] = on_device(device, step, full)
            if together:
                spectra[name] = on_device(device, partial(_energies, problem, corrected[name]), full)
            else:
                step = partial(_finish, problem, solved.pop(name), corrected.pop(name), fixed, measure)
                merged[name] = on_device(device, step, full)
        if together:
            costs = {problem.name: bytes_per_rank(problem.shape, bytes_per_value) for problem in ordered}
            ranks = allocate(policy, spectra, costs)
            for problem in ordered:
                name, full = problem.name, partial(crowded.add, problem.name)
                step = partial(_finish, problem, solved.pop(name), corrected.pop(name), ranks[name], measure)
                merged[name] = on_device(device, step, full)
    for name in crowded:
        merged[name].info["on_cpu"] = True
    return merged


def _solve(
    problem: LayerProblem, method: MergeMethod, options: Mapping[str, Any], seed: int, device: torch.device | str
) -> LayerSolution:
    """The method's solution, or the fallback's where there are no statistics; float32 on the CPU."""
    fallback = get_method(FALLBACK) if method.needs_statistics and problem.statistics is None else None
    try:
        if fallback is not None:
            solution = fallback.solve(_placed(problem, device), complete_options(fallback, {}), seed=seed)
            solution = replace(solution, info={**solution.info, "fallback": FALLBACK})
        else:
            solution = method.solve(_placed(problem, device), options, seed=seed)
    except ArithmeticError as error:
        sentence = f"Layer {problem.name} cannot be solved: {error}; the captured features are not usable."
        raise LoraclrError("unusable-statistics", sentence, key=problem.name) from error
    return replace(solution, delta=solution.delta.to("cpu", torch.float32))


def _corrected(problem: LayerProblem, delta: Delta, correction: Delta, device: torch.device | str) -> Delta:
    """Their sum at the rank of `delta`, float32 on the CPU."""
    total = add([term.to(device, torch.float64) for term in (delta, correction)])
    if delta.rank < min(delta.shape):
        total = truncate(total, delta.rank, activation_gram(problem.statistics, device))
    return total.to("cpu", torch.float32)


def _energies(problem: LayerProblem, delta: Delta, device: torch.device | str) -> Tensor:
    """What the components of the delta are worth to the layer's inputs, descending."""
    delta = delta.to(device, torch.float32)
    return spectrum(delta, activation_gram(problem.statistics, device))[0].cpu()


def _finish(
    problem: LayerProblem, solution: LayerSolution, corrected: Delta, rank: int | None, measure: bool,
    device: torch.device | str,
) -> MergedLayer:  # fmt: skip
    """Truncated where a rank below its own is set; the solution measured on the layer's statistics at that rank."""
    cut = partial(_cut, problem, rank=rank, device=device)
    delta = cut(corrected)
    plain = delta if corrected is solution.delta else cut(solution.delta) if measure else None
    measured = fidelity(_placed(problem, device), plain) if measure and plain is not None else None
    return MergedLayer(delta.to("cpu", torch.float32), solution.info, measured)


def _cut(problem: LayerProblem, delta: Delta, rank: int | None, device: torch.device | str) -> Delta:
    delta = delta.to(device, torch.float32)
    if rank is not None and rank < delta.rank:
        return truncate(delta, rank, activation_gram(problem.statistics, device))
    return balanced(delta) if isinstance(delta, LowRank) else delta


def _placed(problem: LayerProblem, device: torch.device | str) -> LayerProblem:
    """The deltas on the device in float64; statistics follow one by one as they are used."""
    return replace(problem, deltas=[None if d is None else d.to(device, torch.float64) for d in problem.deltas])


def on_device(
    device: torch.device | str, step: Callable[[torch.device | str], T], on_full: Callable[[], object] = lambda: None
) -> T:
    """`step(device)`, and `step("cpu")` after `on_full()` when the device's memory does not suffice for it."""
    try:
        return step(device)
    except RuntimeError as error:
        if torch.device(device).type == "cpu" or not out_of_memory(error):
            raise
    release_memory()
    on_full()
    return step("cpu")
