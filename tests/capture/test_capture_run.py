"""The capture against a brute-force recomputation with patched weights, and its promises on sharing, groups, cancel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib_loraclr.capture import CaptureSettings, Concept, TensorCache, capture, combine
from lib_loraclr.core.deltas import Delta
from lib_loraclr.core.errors import Cancelled, InputError
from lib_loraclr.hosts.standalone import StandaloneHost, load_checkpoint
from lib_loraclr.model import SampleRequest

SETTINGS = CaptureSettings(
    steps=2, prompts=3, batch=2, neutral_prompts=2, held_out_prompts=1, seed=5,
    text_templates=("a photo of {c}", "{c} and {other}"), sample_templates=("{c} in a forest", "a drawing of {c}"),
    held_out_templates=("a sketch of {c}",), scenes=("", "a forest"),
)  # fmt: skip
QUERY = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
KEY2 = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
TEXT = "text_encoder.text_model.encoder.layers.1.self_attn.q_proj"
CONV = "unet.down_blocks.0.downsamplers.0.conv"


@contextmanager
def patched(host: StandaloneHost, deltas: Mapping[str, Delta]) -> Iterator[None]:
    """The LoRA in the weights themselves."""
    saved = {name: host.layers()[name].weight.data.clone() for name in deltas}
    try:
        for name, delta in deltas.items():
            weight = host.layers()[name].weight
            weight.data += delta.dense().view_as(weight)
        yield
    finally:
        for name, weight in saved.items():
            host.layers()[name].weight.data = weight


def recorded(host: StandaloneHost, name: str, action: Callable[[], Any]) -> Tensor:
    """All inputs of a layer while `action` runs, concatenated."""
    seen: list[Tensor] = []
    handle = host.layers()[name].register_forward_pre_hook(lambda _, x: seen.append(x[0].detach().clone()))
    try:
        action()
    finally:
        handle.remove()
    return torch.cat(seen)


def second_moment(rows: Tensor) -> Tensor:
    rows = rows.reshape(-1, rows.shape[-1]).double()
    return rows.T @ rows / len(rows)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> bool:
    return torch.allclose(a.double(), b.double(), atol=tolerance * float(b.abs().max()))


@pytest.fixture(scope="module")
def statistics(host: StandaloneHost, concepts: Sequence[Concept]) -> Mapping[str, Any]:
    with host.ready():
        return capture(host, concepts, SETTINGS)


def test_spatial_moments_equal_brute_force(
    host: StandaloneHost, concepts: Sequence[Concept], statistics: Mapping[str, Any]
) -> None:
    prompts = [["ann4 woman in a forest", "a drawing of ann4 woman", "ann4 woman in a forest"]]
    prompts += [["r3x dog in a forest", "a drawing of r3x dog", "r3x dog in a forest"]]
    for number, concept in enumerate(concepts):
        request = SampleRequest(prompts[number], [5, 6, 7], 2, (64, 64))
        with patched(host, concept.deltas):
            queries = recorded(host, QUERY, lambda request=request: host.sample(request))
            maps = recorded(host, CONV, lambda request=request: host.sample(request))
        assert queries.shape == (6, 4, 64)
        moment = statistics[QUERY].concepts[number]
        assert moment.rows == 24
        assert close(moment.mean(), second_moment(queries))
        patches = F.unfold(maps, 3, padding=1, stride=2).transpose(1, 2)
        assert statistics[CONV].concepts[number].rows == patches.shape[0] * patches.shape[1]
        assert close(statistics[CONV].concepts[number].mean(), second_moment(patches))


def test_text_moments_equal_brute_force_with_weighted_padding(
    host: StandaloneHost, concepts: Sequence[Concept], statistics: Mapping[str, Any]
) -> None:
    prompts = ["a photo of r3x dog", "r3x dog and a man"]  # {other} skips the concept's own class word
    ids, words = host.text.tokens(prompts)
    weights = torch.where(words, 1.0, 0.2).double().flatten()
    with patched(host, concepts[1].deltas):
        context = host.encode(prompts).context
        inputs = recorded(host, TEXT, lambda: host.encode(prompts))
    for name, rows in ((KEY2, context), (TEXT, inputs)):
        flat = rows.reshape(-1, rows.shape[-1]).double()
        moment = statistics[name].concepts[1]
        assert moment.rows == pytest.approx(float(weights.sum()), rel=1e-6)
        assert close(moment.total, flat.T @ (flat * weights[:, None]))
    assert ids.shape == (2, 77)


def test_neutral_and_held_out_moments_equal_brute_force(
    host: StandaloneHost, concepts: Sequence[Concept], statistics: Mapping[str, Any]
) -> None:
    seeds = [2_000_005, 2_000_006]
    drawn = recorded(host, QUERY, lambda: host.sample(SampleRequest(["", "a photo of a woman"], seeds, 2, (64, 64))))
    assert close(statistics[QUERY].neutral.mean(), second_moment(drawn))
    texts = ["", "a photo of a woman", "a forest", "a photo of a dog"]  # and both class words in four more settings
    assert statistics[KEY2].neutral.rows > host.text.tokens(texts)[1].sum()
    with patched(host, concepts[0].deltas):
        request = SampleRequest(["a sketch of ann4 woman"], [1_000_005], 2, (64, 64))
        held_out = recorded(host, QUERY, lambda: host.sample(request))
    assert close(statistics[QUERY].held_out[0].mean(), second_moment(held_out))


def test_student_inputs_come_from_the_merged_model(
    host: StandaloneHost, concepts: Sequence[Concept], make_lora: Callable[[int], dict[str, Delta]]
) -> None:
    merged = make_lora(3)
    found = capture(host, concepts, SETTINGS, student=merged, round=2)
    request = SampleRequest(["ann4 woman in a forest", "a drawing of ann4 woman", "ann4 woman in a forest"],
                            [2005, 2006, 2007], 2, (64, 64))  # fmt: skip
    with patched(host, merged):
        expected = recorded(host, QUERY, lambda: host.sample(request))
    assert close(found[QUERY].concepts[0].mean(), second_moment(expected))
    assert found[QUERY].held_out is None


def test_which_layers_and_who_shares(
    host: StandaloneHost, concepts: Sequence[Concept], statistics: Mapping[str, Any]
) -> None:
    assert set(statistics) == set(concepts[0].deltas)
    block = "unet.mid_block.attentions.0.transformer_blocks.0."
    assert statistics[block + "attn1.to_q"] is statistics[block + "attn1.to_v"]
    assert statistics[block + "attn1.to_q"] is not statistics[block + "attn2.to_q"]
    keys = {id(statistics[name]) for name in statistics if name.endswith(("attn2.to_k", "attn2.to_v"))}
    assert len(keys) == 1
    assert statistics[TEXT] is statistics[TEXT.replace("q_proj", "v_proj")]
    assert statistics[TEXT] is not statistics[TEXT.replace("layers.1", "layers.0")]


def test_groups_over_several_passes_give_the_same_numbers(
    host: StandaloneHost, concepts: Sequence[Concept], statistics: Mapping[str, Any], counting: Any
) -> None:
    progress, one = counting(), counting()
    grouped = capture(host, concepts, replace(SETTINGS, memory_budget_mib=6), progress=progress)
    again = capture(host, concepts, SETTINGS, progress=one)
    assert one.steps == one.announced
    assert not one.messages
    assert "memory budget" in progress.messages[0]
    assert progress.steps == progress.announced >= 2 * one.steps
    for name, expected in statistics.items():
        for a, b, c in zip(expected.concepts, grouped[name].concepts, again[name].concepts, strict=True):
            assert torch.equal(a.total, b.total), name
            assert torch.equal(a.total, c.total), name


def test_guidance_counts_only_the_conditional_rows(host: StandaloneHost, concepts: Sequence[Concept]) -> None:
    found = capture(host, concepts[:1], replace(SETTINGS, cfg_scale=2.0))
    request = SampleRequest(["ann4 woman in a forest", "a drawing of ann4 woman"], [5, 6], 2, (64, 64), 2.0)
    last = SampleRequest(["ann4 woman in a forest"], [7], 2, (64, 64), 2.0)
    with patched(host, concepts[0].deltas):
        both = recorded(host, QUERY, lambda: host.sample(request))
        one = recorded(host, QUERY, lambda: host.sample(last))
    bound = torch.cat([both[2:4], both[6:8], one[1:2], one[3:4]])
    assert found[QUERY].concepts[0].rows == 24
    assert close(found[QUERY].concepts[0].mean(), second_moment(bound))


def test_combine_adds_moments_and_keeps_sharing(
    host: StandaloneHost, concepts: Sequence[Concept], statistics: Mapping[str, Any]
) -> None:
    other = capture(host, concepts, SETTINGS, student=concepts[0].deltas, round=1)
    both = combine(statistics, other)
    expected = statistics[QUERY].concepts[1].total + other[QUERY].concepts[1].total
    assert torch.allclose(both[QUERY].concepts[1].total, expected)
    assert both[QUERY].concepts[1].rows == 48
    assert both[QUERY].neutral.rows == 2 * statistics[QUERY].neutral.rows
    assert both[QUERY].held_out is statistics[QUERY].held_out
    assert both[QUERY] is both[QUERY.replace("to_q", "to_k")]
    part = combine({QUERY: statistics[QUERY]}, {CONV: other[CONV]})
    assert part == {QUERY: statistics[QUERY], CONV: other[CONV]}


def test_text_preset_never_samples(
    host: StandaloneHost, concepts: Sequence[Concept], statistics: Mapping[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("sampled")

    monkeypatch.setattr(host, "sample", refuse)
    found = capture(host, concepts, replace(SETTINGS, preset="text"))
    expected = {n for n in statistics if n.startswith("text_encoder") or n.endswith(("attn2.to_k", "attn2.to_v"))}
    assert set(found) == expected
    assert torch.equal(found[KEY2].concepts[0].total, statistics[KEY2].concepts[0].total)


def test_wide_layers_are_left_out_and_named(host: StandaloneHost, concepts: Sequence[Concept], counting: Any) -> None:
    progress = counting()
    found = capture(host, concepts, replace(SETTINGS, max_features=300), progress=progress)
    assert CONV in found  # 32 * 9 = 288
    assert "unet.down_blocks.1.downsamplers.0.conv" not in found  # 64 * 9 = 576
    assert any("more than 300 inputs" in message for message in progress.messages)


def test_cancel_leaves_no_hook_and_keeps_what_is_finished(
    host: StandaloneHost, concepts: Sequence[Concept], counting: Any, tmp_path: Path
) -> None:
    cache = TensorCache(tmp_path)
    plain = capture(host, concepts, SETTINGS, cache=TensorCache(tmp_path / "other"), progress=(all_ := counting()))
    for stop in (1, 3, all_.announced - 1):
        with pytest.raises(Cancelled):
            capture(host, concepts, SETTINGS, cache=cache, progress=counting(stop))
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in host.layers().values())
    rest = counting()
    found = capture(host, concepts, SETTINGS, cache=cache, progress=rest)
    assert 0 < rest.steps < all_.steps
    assert not list(tmp_path.glob(".*"))
    assert torch.equal(found[QUERY].concepts[0].total, plain[QUERY].concepts[0].total)


def test_prompts_of_its_own_take_the_place_of_the_usual_ones(
    host: StandaloneHost, concepts: Sequence[Concept], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    encode = host.encode
    monkeypatch.setattr(host, "encode", lambda prompts: asked.extend(prompts) or encode(prompts))
    own = replace(concepts[0], prompts=("an etching of {c}", "{c} under {other}"))
    capture(host, [own, concepts[1]], SETTINGS)
    assert "an etching of ann4 woman" in asked
    assert any(prompt.startswith("ann4 woman under a ") for prompt in asked)
    assert "a photo of ann4 woman" not in asked
    assert "a photo of r3x dog" in asked


def test_error_inside_the_model_leaves_no_hook(host: StandaloneHost, concepts: Sequence[Concept]) -> None:
    calls = 0

    def fail(module: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("the device is gone")

    handle = host.unet.conv_out.register_forward_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="is gone"):
            capture(host, concepts, SETTINGS)
    finally:
        handle.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in host.layers().values())


def test_nothing_global_is_touched(host: StandaloneHost, concepts: Sequence[Concept]) -> None:
    torch.manual_seed(3)
    state, precision = torch.get_rng_state(), torch.get_float32_matmul_precision()
    weights = {name: module.weight.clone() for name, module in host.layers().items()}
    capture(host, concepts[:1], SETTINGS)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_float32_matmul_precision() == precision
    assert torch.is_grad_enabled()
    assert all(torch.equal(weights[name], module.weight) for name, module in host.layers().items())


def test_layer_that_the_model_lacks(host: StandaloneHost, concepts: Sequence[Concept]) -> None:
    delta = next(iter(concepts[0].deltas.values()))
    with pytest.raises(InputError) as caught:
        capture(host, [Concept("x", "x", "", {"unet.nowhere": delta})], SETTINGS)
    assert (caught.value.code, caught.value.key) == ("unknown-layer", "unet.nowhere")


@pytest.mark.parametrize("family", ["tiny_sd2", "tiny_sdxl"])
def test_other_families(family: str, request: pytest.FixtureRequest, counting: Any) -> None:
    from lib_loraclr.core.deltas import LayerShape, LowRank

    host = load_checkpoint(request.getfixturevalue(family))
    deltas = {}
    for name, module in host.layers().items():
        if name.endswith(("to_q", "to_k", "q_proj", "fc2", "proj_in")):
            shape = LayerShape.of(module.weight.shape)
            deltas[name] = LowRank(torch.ones(shape.out_features, 1), 0.001 * torch.ones(1, shape.in_features))
    progress = counting()
    concept = Concept("x", "xyz", "dog", deltas)
    found = capture(host, [concept], replace(SETTINGS, size=(64, 64)), progress=progress)
    last = [name for name in deltas if name not in found]
    # SDXL takes the last but one layer, but the pooled text of the second encoder runs them all
    expected = ["text_encoder.text_model.encoder.layers.1.mlp.fc2"] if family == "never" else []
    assert last == expected
    assert all(s.concepts[0].rows > 0 and s.neutral is not None for s in found.values())
