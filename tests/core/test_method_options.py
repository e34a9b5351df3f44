from __future__ import annotations

import pytest

from lib_loraclr.core.errors import InputError
from lib_loraclr.core.methods import METHODS, complete_options, get_method


def test_the_registry_has_these_names_in_this_order():
    expected = ["sum", "average", "svd", "ties", "dare", "knots", "gradient-fusion", "contrastive"]
    assert list(METHODS) == expected
    assert [METHODS[name].name for name in expected] == expected
    assert [name for name in expected if METHODS[name].needs_statistics] == ["gradient-fusion", "contrastive"]


def test_every_method_describes_itself_and_its_defaults_are_valid():
    for method in METHODS.values():
        assert method.summary
        assert method.reference
        assert method.title
        assert method.label
        assert all(option.help for option in method.options)
        defaults = complete_options(method, {})
        assert list(defaults) == [option.name for option in method.options]


def test_unknown_method():
    with pytest.raises(InputError) as caught:
        get_method("magic")
    assert caught.value.code == "unknown-method"


def test_text_from_a_command_line_is_converted():
    options = complete_options("contrastive", {"margin": "1.5", "steps": "3", "against": "all", "anchor": 1})
    assert (options["margin"], options["steps"], options["against"], options["prior_preservation"]) == (
        1.5,
        3,
        "all",
        1.0,
    )
    assert complete_options("gradient-fusion", {"published": "no"})["published"] is False


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("sum", {"margin": 1.0}),
        ("contrastive", {"margin": -0.1}),
        ("contrastive", {"margin": "wide"}),
        ("contrastive", {"margin": float("nan")}),
        ("contrastive", {"margin": None}),
        ("contrastive", {"steps": 2.5}),
        ("contrastive", {"steps": True}),
        ("contrastive", {"steps": float("inf")}),
        ("contrastive", {"negatives": "none"}),
        ("contrastive", {"negatives": "paper"}),
        ("gradient-fusion", {"metric": "attention"}),
        ("gradient-fusion", {"published": "perhaps"}),
        ("ties", {"density": 1.01}),
        ("dare", {"drop": 1.0}),
    ],
)
def test_a_wrong_option_is_named(method, given):
    with pytest.raises(InputError) as caught:
        complete_options(method, given)
    assert caught.value.code == "bad-option"
    assert caught.value.key == next(iter(given))
    assert next(iter(given)) in caught.value.message


def test_published_decides_over_the_rest():
    options = complete_options("gradient-fusion", {"published": True, "anchor": 0.5, "rounds": 4})
    assert (options["prior_preservation"], options["rounds"], options["balance"], options["weighting"]) == (
        0.0,
        0,
        0,
        "rows",
    )


@pytest.mark.parametrize("method", ["gradient-fusion", "contrastive"])
def test_options_of_old_recipes_that_change_nothing_are_read(method):
    old = {"negatives": "swap", "metric": "output", "anchor": 0.2}
    assert complete_options(method, old) == complete_options(method, {"anchor": 0.2})
