"""The cost model against what really happens: a tiny merge on a model that counts its calls."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_loras import QUICK, options_for

from lib_loraclr.app.cost import MergeCost, Pace, read_layers
from lib_loraclr.cost import groups
from lib_loraclr.hosts.standalone import StandaloneHost, load_checkpoint
from lib_loraclr.merging.config import MergeConfig, config_of
from lib_loraclr.merging.pipeline import merge
from lib_loraclr.model import Phase


@dataclass
class Counting:
    """Progress that counts what the model is asked in every phase."""

    phases: list[Phase] = field(default_factory=list)
    announced: Counter[Phase] = field(default_factory=Counter)
    steps: Counter[Phase] = field(default_factory=Counter)
    rows: Counter[Phase] = field(default_factory=Counter)
    backward: Counter[Phase] = field(default_factory=Counter)
    texts: Counter[Phase] = field(default_factory=Counter)

    def phase(self, phase: Phase, steps: int, detail: str = "") -> None:
        self.phases.append(phase)
        self.announced[phase] += steps

    def step(self, text: str = "") -> None:
        self.steps[self.phases[-1]] += 1

    def message(self, text: str) -> None:
        """Nothing."""

    @contextlib.contextmanager
    def watching(self, host: StandaloneHost) -> Generator[None]:
        """Scope in which calls of UNet and text encoder are counted."""

        def asked(module: Any, args: tuple[Any, ...], kwargs: Any, output: Any) -> None:
            self.rows[self.phases[-1]] += len(args[0])
            self.backward[self.phases[-1]] += len(args[0]) * torch.is_grad_enabled()

        def read(module: Any, args: tuple[Any, ...], kwargs: Any, output: Any) -> None:
            given = args[0] if args else kwargs["input_ids"]
            self.texts[self.phases[-1]] += len(given)

        hooks = [
            host.unet.register_forward_hook(asked, with_kwargs=True),
            host.text.encoders[0].register_forward_hook(read, with_kwargs=True),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


@pytest.mark.parametrize(
    ("preset", "method", "report", "budget"),
    [
        ("layerwise", "contrastive", False, None),
        ("layerwise", "gradient-fusion", True, 1),
        ("text", "gradient-fusion", False, None),
        ("distilled", "contrastive", True, None),
        ("instant", "sum", False, None),
    ],
)
def test_every_phase_asks_what_the_cost_model_says(
    preset: str, method: str, report: bool, budget: int | None, loras: list[Path], tiny_sd1: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"preset": preset, "method": method, "report": tmp_path / "report" if report else None}
    quick = {} if preset == "instant" else {**QUICK, "held_out_prompts": 2, "neutral_prompts": 3}
    if budget is not None:
        quick["memory_budget"] = budget
    if method == "gradient-fusion":
        quick["rounds"] = 2
    options = options_for(loras, tmp_path / "m.safetensors", tiny_sd1, tmp_path / "cache", option=quick, **changes)
    options = replace(options, checkpoint=None) if preset == "instant" else options
    host, counting = load_checkpoint(tiny_sd1), Counting()
    with counting.watching(host):
        merge(options, open_host=lambda checkpoint, device: host, progress=counting)
    config: MergeConfig = config_of(options)
    cost = MergeCost.of(config, read_layers(loras), host.info)
    assert counting.phases == [one.phase for one in cost.phases]
    for phase in dict.fromkeys(counting.phases):
        count = cost.count(phase)
        seen = (counting.rows[phase], counting.backward[phase], counting.texts[phase])
        assert (phase, *seen) == (phase, count.rows, count.backward, count.texts)
        assert (phase, counting.announced[phase], counting.steps[phase]) == (phase, count.steps, count.steps)
    assert cost.rows()["total"] == sum(counting.rows.values()) + 2 * sum(counting.backward.values())


def test_passes_are_within_the_budget_but_for_single_items() -> None:
    assert groups([3, 3, 3, 9, 1], 6) == [2, 1, 1, 1]
    assert groups([], 6) == []


def test_the_pace_is_kept_for_other_programs_and_partly_cached_phases_tell_nothing(
    loras: list[Path], tiny_sd1: Path, tmp_path: Path
) -> None:
    options = options_for(loras, tmp_path / "m.safetensors", tiny_sd1, tmp_path)
    config, model = config_of(options), load_checkpoint(tiny_sd1).info
    cost, pace = MergeCost.of(config, read_layers(loras), model), Pace()
    assert not pace.of(model, config, Phase.WATCH)[1]
    count = cost.count(Phase.WATCH)
    pace.learn_all(cost, model, [(Phase.WATCH, count.steps - 1, 5.0)])
    assert pace.measured == {}
    pace.learn_all(cost, model, [(Phase.WATCH, 1, 1.0), (Phase.WATCH, count.steps - 1, 5.0)])
    pace.write(tmp_path)
    other = Pace()
    other.read(tmp_path)
    assert other.of(model, config, Phase.WATCH) == (pytest.approx(6.0 / count.work), True)
    assert other.of(model, config, Phase.LEARN) == (pytest.approx(6.0 / count.work), True)
    (tmp_path / "pace.json").write_text("[1")
    Pace().read(tmp_path)
