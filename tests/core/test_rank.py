from __future__ import annotations

import pytest
import torch

from lib_loraclr.core.deltas import Dense, LayerShape, LowRank
from lib_loraclr.core.errors import InputError
from lib_loraclr.core.rank import LAYER_OVERHEAD, RankPolicy, allocate, bytes_per_rank, spectrum, truncate


def random_delta(out: int = 12, rank: int = 6, size: int = 15, seed: int = 0) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(out, rank, generator=generator), torch.randn(rank, size, generator=generator))


def random_gram(size: int = 15, seed: int = 1) -> torch.Tensor:
    x = torch.randn(60, size, generator=torch.Generator().manual_seed(seed)) * torch.logspace(0, -2, size)
    return x.T @ x


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("exact", RankPolicy("exact")),
        ("16", RankPolicy("fixed", 16)),
        (8, RankPolicy("fixed", 8)),
        ("energy=0.95", RankPolicy("energy", 0.95)),
        (" Size=20 ", RankPolicy("size", 20)),
    ],
)
def test_parsing(text, policy):
    assert RankPolicy.parse(text) == policy
    assert RankPolicy.parse(str(policy)) == policy


@pytest.mark.parametrize(
    "text",
    ["", "0", "-4", "4.5", "many", "energy", "energy=0", "energy=1.1", "size=-1", "size=inf", "exact=3", "energy=nan"],
)
def test_what_is_no_rank(text):
    with pytest.raises(InputError) as caught:
        RankPolicy.parse(text)
    assert caught.value.code == "bad-rank"


@pytest.mark.parametrize("kind", ["low", "dense"])
def test_truncation_is_optimal_for_the_inputs(kind):
    delta, gram = random_delta(), random_gram()
    given = delta if kind == "low" else Dense(delta.dense())
    root = torch.linalg.cholesky(gram.double() + 1e-12 * torch.eye(15))
    singular = torch.linalg.svdvals(delta.dense().double() @ root)
    energies, _, _ = spectrum(given, gram)
    assert torch.allclose(energies[:6].sqrt(), singular[:6], rtol=1e-5)
    for rank in (1, 3, 6):
        cut = truncate(given, rank, gram)
        lost = ((cut.dense() - delta.dense()).double() @ root).square().sum()
        assert cut.rank == rank
        assert float(lost) == pytest.approx(float(singular[rank:].square().sum()), rel=1e-4, abs=1e-7)


def test_truncation_without_inputs_is_that_of_the_weights():
    delta = random_delta()
    singular = torch.linalg.svdvals(delta.dense())
    assert float((truncate(delta, 2).dense() - delta.dense()).norm()) == pytest.approx(
        float(singular[2:].norm()), rel=1e-5
    )


def test_the_metric_matters():
    delta, gram = random_delta(), random_gram()
    plain, aware = truncate(delta, 2), truncate(delta, 2, gram)
    lost = [((cut.dense() - delta.dense()) @ gram * (cut.dense() - delta.dense())).sum() for cut in (plain, aware)]
    assert lost[1] < 0.95 * lost[0]


def test_factors_share_the_singular_values():
    cut = truncate(random_delta(), 4)
    assert torch.allclose(cut.up.norm(dim=0), cut.down.norm(dim=1), rtol=1e-5)
    assert torch.allclose(cut.up.T @ cut.up, torch.diag(cut.up.square().sum(0)), atol=1e-5)


def test_rank_of_a_zero_delta():
    cut = truncate(LowRank(torch.zeros(4, 3), torch.zeros(3, 5)), 2)
    assert cut.rank == 2
    assert not cut.dense().any()


def test_energy_takes_what_a_byte_buys_most_of():
    # Shares: a 0.9, 0.1; b 0.5, 0.3, 0.2. Rank 1 each keeps 1.4 of 2; the next is b's 0.3, then b's 0.2, then a's 0.1.
    spectra, costs = {"a": [9.0, 1.0], "b": [500.0, 300.0, 200.0]}, {"a": 100, "b": 100}
    for share, expected in [(0.7, (1, 1)), (0.85, (1, 2)), (0.95, (1, 3)), (0.96, (2, 3)), (1.0, (2, 3))]:
        ranks = allocate(RankPolicy("energy", share), spectra, costs)
        assert (ranks["a"], ranks["b"]) == expected
    # b's ranks cost ten times as much: a's 0.1 comes first.
    ranks = allocate(RankPolicy("energy", 0.75), spectra, {"a": 100, "b": 1000})
    assert (ranks["a"], ranks["b"]) == (2, 1)


def test_size_is_kept_to_and_used():
    spectra = {"a": [9.0, 1.0], "b": [500.0, 300.0, 200.0]}
    costs = {"a": 10_000, "b": 10_000}
    for extra, expected in [(0, (1, 1)), (10_000, (1, 2)), (29_999, (1, 3)), (30_000, (2, 3)), (10**6, (2, 3))]:
        total = 2 * LAYER_OVERHEAD + 20_000 + extra
        ranks = allocate(RankPolicy("size", total / 1e6), spectra, costs)
        assert (ranks["a"], ranks["b"]) == expected


def test_what_does_not_fit_is_passed_over():
    # After rank 1 each, 5,000 bytes are left: b's next rank costs 10,000, a's only 4,000.
    policy = RankPolicy("size", (2 * LAYER_OVERHEAD + 14_000 + 5_000) / 1e6)
    ranks = allocate(policy, {"a": [9.0, 0.1], "b": [5.0, 4.9, 4.8]}, {"a": 4_000, "b": 10_000})
    assert ranks == {"a": 2, "b": 1}


def test_a_size_too_small_says_what_is_possible():
    with pytest.raises(InputError, match=r"0\.02 MB") as caught:
        allocate(RankPolicy("size", 0.001), {"a": [1.0]}, {"a": 20_000})
    assert caught.value.code == "size-too-small"


def test_a_layer_without_energy_takes_one_rank():
    assert allocate(RankPolicy("energy", 1.0), {"a": [0.0, 0.0], "b": [1.0]}, {"a": 1, "b": 1}) == {"a": 1, "b": 1}


def test_bytes_of_a_rank_count_the_kernel():
    assert bytes_per_rank(LayerShape(8, 4, (3, 3)), 2) == (8 + 36) * 2
