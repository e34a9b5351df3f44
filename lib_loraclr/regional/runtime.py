"""`RegionalRuntime`: regions in a running UNet, by forward hooks that always go away again.

A hook runs after the layer that it sits on and asks the layer's installed `forward` again, for the tokens and texts of
each region. Whatever optimiser or other extension is installed there does the work; no attention is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lib_loraclr.regional.attention import (
    BaseWeights,
    LayerWeights,
    attend,
    context_of,
    divisible,
    mix,
    pick,
    put,
    queries_of,
    rephrased,
    weighted,
)
from lib_loraclr.regional.conditions import BatchRow, Call, RegionRows, RegionText, plan_call
from lib_loraclr.regional.lora import MaskedLoras, RegionDeltas, Scope
from lib_loraclr.regional.pooled import PooledMap
from lib_loraclr.regional.separate import SeparateDenoising
from lib_loraclr.regional.sites import AttentionBlock, Sites
from lib_loraclr.regional.weights import RegionWeights, SubjectTokens, isolates, subjects, to_device

Size = tuple[int, int]


class RegionalRuntime:
    """One layout on one UNet. See the package's docstring for what an adapter calls and when.

    `notes` collects one sentence for everything that could not be done, for the adapter to show.
    """

    def __init__(self, region_weights: RegionWeights, sites: Sites) -> None:
        self.region_weights, self.sites = region_weights, sites
        self.notes: list[str] = []
        self.scope: Scope | None = None
        self._handles: list[RemovableHandle] = []
        self._pooled = PooledMap(sites, self._weights_and_base)
        self._sizes: dict[nn.Module, Size] = {}
        self._progress = 0.0
        self._conditions: Sequence[Sequence[RegionText]] = ()
        self._call: Call | None = None
        self._plans: dict[tuple[BatchRow, ...], Call] = {}
        self._whole: dict[nn.Module, tuple[tuple[Any, ...], dict[str, Any], BaseWeights]] = {}
        self._weights: dict[tuple[Any, ...], LayerWeights] = {}
        self._bases: dict[tuple[Any, ...], BaseWeights] = {}
        self._subjects: dict[tuple[Any, ...], tuple[SubjectTokens, ...]] = {}
        self._separate = SeparateDenoising(self)
        self._loras: MaskedLoras | None = None

    @property
    def progress(self) -> float:
        """The share of the sampling run that is done."""
        return self._progress

    @property
    def conditions(self) -> Sequence[Sequence[RegionText]]:
        """The texts of this step: `conditions[picture][region]`."""
        return self._conditions

    @property
    def rows(self) -> tuple[BatchRow, ...] | None:
        """The batch rows of the call that is open; None where none is."""
        return None if self._call is None else self._call.rows

    @property
    def idle(self) -> bool:
        """True where the layout has no region that acts in this pass: nothing is ever hooked."""
        return not self.region_weights.regions

    def install(self, loras: RegionDeltas | None = None) -> None:
        """Hook the UNet. Installing again first removes what was there."""
        self.remove()
        if self.idle:
            return
        try:
            for owner in self.sites.owners:
                self._handles.append(owner.register_forward_pre_hook(self._before_owner, with_kwargs=True))
            for block in self.sites.blocks:
                hook = self._before_cross(block)
                self._handles.append(block.attn2.register_forward_pre_hook(hook, with_kwargs=True))
                self._handles.append(block.attn2.register_forward_hook(self._after_cross(block), with_kwargs=True))
                if self.region_weights.spec.isolation.strength > 0:
                    hook = self._after_self(block)
                    self._handles.append(block.attn1.register_forward_hook(hook, with_kwargs=True))
            if self.region_weights.spec.pooled:
                self._handles += self._pooled.install()
            if loras is not None:
                if self._loras is None or self._loras.loras is not loras:
                    self._loras = MaskedLoras(loras, self.sites, self._scope_now, self._weights_now)
                self._handles += self._loras.install()
            self._handles += self._separate.install(loras)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Take every hook away and forget the run; safe to call at any time, any number of times."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._abandon()
        self._separate.forget()
        for cache in (self._sizes, self._plans, self._weights, self._bases, self._subjects):
            cache.clear()
        self._conditions = ()

    @contextmanager
    def installed(self, loras: RegionDeltas | None = None) -> Generator[RegionalRuntime]:
        """Scope in which the hooks are there."""
        try:
            self.install(loras)
            yield self
        finally:
            self.remove()

    def begin_step(self, progress: float, conditions: Sequence[Sequence[RegionText]]) -> None:
        """A sampling step: `progress` is step / steps; `conditions[picture][region]` are the texts of this step.

        Passing the very same object again keeps what was computed for it.
        """
        if conditions is not self._conditions or self.region_weights.gates(progress) != self.region_weights.gates(
            self._progress
        ):
            self._plans.clear()
        self._progress, self._conditions = progress, conditions

    def begin_call(self, rows: Sequence[BatchRow]) -> None:
        """A UNet call with these batch rows starts. Raises ValueError for a picture that has no texts."""
        key = tuple(rows)
        if key not in self._plans:
            self._plans[key] = plan_call(key, self._conditions, self.region_weights.gates(self._progress))
        self._call = self._plans[key]
        self._sizes.clear()
        self._pooled.begin(self._call)
        self.scope = Scope()

    def end_call(self) -> None:
        """It is over. After an error `begin_call` or `remove` clean up as well."""
        if self._call is not None and not self._pooled.complete:
            self.note("This model uses its text vector in a way that cannot be divided into regions.")
        self._abandon()

    @contextmanager
    def calling(self, rows: Sequence[BatchRow]) -> Generator[None]:
        """Scope of one UNet call."""
        self.begin_call(rows)
        try:
            yield
            self.end_call()
        finally:
            self._abandon()

    def mix_replaced(
        self, block: AttentionBlock, queries: Tensor, output: Tensor, attend: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """The mixture for a host that bypasses `attn2` with a function of its own (Forge's replace patches).

        queries (b, n, c) as they enter the function and its `output` (b, n, c') for the picture's own prompt;
        `attend(context)` calls it again with keys and values of `context` (b, tokens, width), for ALL rows and tokens,
        because such a function may count its rows. As weights add up to one, what it adds by itself is added once.
        """
        if self._separate.running is not None:
            return self._separate.running.mix_replaced(block, queries, output, attend)
        call, size = self._call, self._size(block.owner, queries)
        if call is None or size is None or not call.groups:
            return output
        weights, base = self._weights_and_base(*size, output)
        mixed = weighted(output, BaseWeights(base.values, None), queries)
        for group in call.groups:
            tokens = weights.tokens[group.region]
            if tokens is not None and not len(tokens):
                continue
            with self._scoped(region=group.region):
                answer = attend(group.whole(block.number, queries))[group.rows]
            put(mixed, group.rows, None, answer * weights.values[group.region][None, :, None])
        return mixed

    def note(self, sentence: str) -> None:
        """Keep a sentence for the user, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def _abandon(self) -> None:
        self._separate.abandon()
        self._pooled.end()
        self._whole.clear()
        self._call, self.scope = None, None

    def _before_owner(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        if self._call is None:
            return
        features = inputs[0] if inputs else named.get("hidden_states", named.get("x"))
        if isinstance(features, Tensor) and features.ndim == 4:
            height, width = features.shape[-2:]
            self._sizes[module] = height, width
            if self.scope is not None:
                self.scope.size = height, width

    def _before_cross(self, block: AttentionBlock) -> Callable[..., Any]:
        """Where regions cover the picture, its own prompt is asked only for what they leave over."""

        def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
            call, scope, context = self._call, self.scope, context_of(inputs, named)
            if call is None or scope is None or context is None or not call.groups:
                return None
            queries = queries_of(inputs, named)
            size = self._size(block.owner, queries) if divisible(module, inputs, named) else None
            base = None if size is None else self._weights_and_base(*size, queries)[1]
            if base is None or base.part is None:
                return None
            self._whole[module] = inputs, named, base
            scope.tokens = base.part.tokens
            part = pick(queries, base.part.rows, base.part.tokens)
            return rephrased(inputs, named, part, context[base.part.rows])

        return hook

    def _after_cross(self, block: AttentionBlock) -> Callable[..., Tensor | None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> Tensor | None:
            call = self._call
            if call is None or not call.groups:
                return None
            inputs, named, asked = self._whole.pop(module, (inputs, named, None))
            if asked is not None and self.scope is not None:
                self.scope.tokens = None
            queries = queries_of(inputs, named)
            size = self._size(block.owner, queries)
            if size is None:
                return None
            weights, base = self._weights_and_base(*size, output)
            base = BaseWeights(base.values, None if asked is None else asked.part)

            def attend_region(group: RegionRows, part: Tensor, context: Tensor, tokens: Tensor | None) -> Tensor:
                with self._scoped(region=group.region, tokens=tokens):
                    return attend(module, inputs, named, part, context)

            return mix(call, block.number, weights, base, queries, output, attend_region)

        return hook

    def _after_self(self, block: AttentionBlock) -> Callable[..., Tensor | None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> Tensor | None:
            if self._call is None or context_of(inputs, named) is not None:
                return None
            values = queries_of(inputs, named)
            size = self._size(block.owner, values)
            if size is None:
                return None
            strength, found = self.region_weights.spec.isolation.strength, self._subjects_of(size, values.device)
            if not found:
                return None
            mixed = output.clone()
            for subject in found:
                own, visible = values.index_select(1, subject.tokens), values.index_select(1, subject.visible)
                with self._scoped(tokens=subject.tokens, keys=subject.visible):
                    answer = attend(module, inputs, named, own, visible)
                whole = output.index_select(1, subject.tokens)
                mixed = mixed.index_copy(1, subject.tokens, (1 - strength) * whole + strength * answer)
            return mixed

        return hook

    def _size(self, owner: nn.Module, queries: Tensor) -> Size | None:
        """Rows and columns of the tokens, if this layer's call is what `begin_call` announced."""
        size = self._sizes.get(owner)
        if self._call is None or size is None:
            return None
        if queries.shape[0] != len(self._call.rows):
            self.note("Another extension changes the batch inside the model; regions stand aside there.")
            return None
        if queries.shape[1] != size[0] * size[1]:
            self.note("Another extension merges or cuts tokens; regions stand aside in those layers.")
            return None
        return size

    def _weights_and_base(self, height: int, width: int, like: Tensor) -> tuple[LayerWeights, BaseWeights]:
        weights = self._weights_at(height, width, like)
        present = self._call.present if self._call is not None else ()
        kept = present[:1] if self._call is not None and self._call.uniform else present
        key = height, width, self.region_weights.gates(self._progress), like.device, like.dtype, kept
        if key not in self._bases:
            self._bases[key] = weights.base(kept)
        return weights, self._bases[key]

    def _weights_at(self, height: int, width: int, like: Tensor) -> LayerWeights:
        key = height, width, self.region_weights.gates(self._progress), like.device, like.dtype
        if key not in self._weights:
            self._weights[key] = LayerWeights.of(self.region_weights.at(height, width, self._progress), like)
        return self._weights[key]

    def _weights_now(self, height: int, width: int, like: Tensor) -> Tensor:
        return self._weights_at(height, width, like).values

    def _scope_now(self) -> Scope | None:
        return self.scope

    def _subjects_of(self, size: Size, device: torch.device) -> tuple[SubjectTokens, ...]:
        if not isolates(self.region_weights, self._progress):
            return ()
        key = size, device, self.region_weights.gates(self._progress)
        if key not in self._subjects:
            self._subjects[key] = to_device(subjects(self.region_weights, *size, self._progress), device)
        return self._subjects[key]

    @contextmanager
    def _scoped(self, **values: Any) -> Generator[None]:
        before = self.scope
        self.scope = Scope(size=before.size if before is not None else None, **values)
        try:
            yield
        finally:
            self.scope = before
