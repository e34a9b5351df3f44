"""What goes wrong inside a region's pass ends the regions, is told, and leaves the plain picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "regional"))

from fake_webui import Processing, encode_words
from regional_drivers import A1111, FULL, halves, latents, same
from regional_toys import hooks


@pytest.fixture
def a1111(monkeypatch: pytest.MonkeyPatch) -> A1111:
    return A1111(monkeypatch)


def pictured(a1111: A1111, spec: dict[str, Any], p: Processing) -> torch.Tensor:
    """The model's output for the batch of one step."""
    session, x, seen = a1111.session(spec, p), latents(1), list[torch.Tensor]()
    p.sample(lambda: (session.start_pass(p, x), seen.append(a1111.evaluate(session, p, x, size=4))))
    return seen[0]


def test_a_prompt_parser_without_old_scheduling_is_called_without_it(
    a1111: A1111, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forge Neo 2.26: get_learned_conditioning(model, prompts, steps, hires_steps=None)."""
    from modules import prompt_parser

    before, whole = pictured(a1111, halves(), Processing(["two"], ["bad"])), prompt_parser.get_learned_conditioning

    def neo(model: Any, prompts: list[str], steps: int, hires_steps: int | None = None) -> Any:
        return whole(model, prompts, steps, hires_steps)

    monkeypatch.setattr(prompt_parser, "get_learned_conditioning", neo)
    p = Processing(["two"], ["bad"])
    assert same(pictured(a1111, halves(), p), before)
    assert "Regional" in p.extra_generation_params
    assert "Regional notes" not in p.extra_generation_params


@pytest.mark.parametrize("place", ["encode", "unet", "refusal", "start"])
def test_a_failing_pass_leaves_the_plain_picture_and_says_so(
    a1111: A1111, monkeypatch: pytest.MonkeyPatch, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise TypeError("takes from 3 to 4 positional arguments")

    x = latents(1)
    contexts = torch.stack([encode_words("two")[[0, 0, 0, 0]], encode_words("bad")[[0, 1, 1, 1]]])
    plain = a1111.unet(torch.cat([x, x]), torch.full((2,), 0.3), contexts)
    monkeypatch.setattr(a1111.host, place, broken)
    p = Processing(["two"], ["bad"])
    session, seen = a1111.session(FULL, p), list[torch.Tensor]()
    p.sample(
        lambda: (session.start_pass(p, x), seen.append(a1111.unet(torch.cat([x, x]), torch.full((2,), 0.3), contexts)))
    )
    assert torch.equal(seen[0], plain)
    assert hooks(a1111.unet) == 0
    assert "Regional" not in p.extra_generation_params
    assert "takes from 3 to 4 positional arguments" in p.extra_generation_params["Regional notes"]
    assert any("Regions did not act" in comment for comment in p.comments)
    assert "The regions of a picture failed." in caplog.text


def test_a_step_that_fails_ends_the_regions(a1111: A1111, monkeypatch: pytest.MonkeyPatch) -> None:
    p = Processing(["two"], ["bad"])
    session, x = a1111.session(halves(), p), latents(1)

    def run() -> None:
        session.start_pass(p, x)
        assert hooks(a1111.unet) > 0
        monkeypatch.setattr(type(session.running), "step", lambda self, params: 1 / 0)
        session.step(p, None)
        assert hooks(a1111.unet) == 0

    p.sample(run)
    assert "ZeroDivisionError" in p.extra_generation_params["Regional notes"]
    assert session.running is None
