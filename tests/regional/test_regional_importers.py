"""Layouts of other programs: golden texts and what becomes of them."""

from __future__ import annotations

import pytest

from lib_loraclr.core.errors import InputError
from lib_loraclr.regional import Box, dump_spec, parse_spec
from lib_loraclr.regional.importers import (
    Imported,
    import_forge_couple,
    import_mix_of_show,
    import_regional_prompter,
    import_text,
)


def rows(imported: Imported) -> list[tuple[str, list[float]]]:
    found: list[tuple[str, list[float]]] = []
    for region in imported.spec.regions:
        assert isinstance(region.shape, Box)
        box = region.shape
        found.append((region.prompt, [round(edge, 4) for edge in (box.left, box.top, box.right, box.bottom)]))
    assert parse_spec(dump_spec(imported.spec)) == imported.spec
    return found


def test_regional_prompter_breaks() -> None:
    text = "green hair twintail BREAK\nred blouse BREAK\nblue skirt"
    imported = import_regional_prompter(text, "bad", ratios="1,1,2", mode="Rows")
    assert rows(imported) == [
        ("green hair twintail", [0, 0, 1, 0.25]),
        ("red blouse", [0, 0.25, 1, 0.5]),
        ("blue skirt", [0, 0.5, 1, 1]),
    ]
    assert (imported.negative, imported.notes) == ("bad", ())
    assert imported.spec.base.in_regions == 0


def test_regional_prompter_rows_and_columns() -> None:
    """The example of its README, ratios 1,2,1,1;2,4,6."""
    text = (
        "(blue sky:1.2) ADDCOL\ngreen hair twintail ADDCOL\n(aquarium:1.3) ADDROW\n(messy desk:1.2) ADDCOL\n"
        "orange dress and sofa"
    )
    imported = import_text(text)
    assert len(imported.notes) == 1
    imported = import_regional_prompter(text, ratios="1,2,1,1;2,4,6")
    third = round(1 / 3, 4)
    assert rows(imported) == [
        ("(blue sky:1.2)", [0, 0, 0.5, third]),
        ("green hair twintail", [0.5, 0, 0.75, third]),
        ("(aquarium:1.3)", [0.75, 0, 1, third]),
        ("(messy desk:1.2)", [0, third, 0.4, 1]),
        ("orange dress and sofa", [0.4, third, 1, 1]),
    ]
    assert imported.notes == ()


def test_regional_prompter_common_base_and_negatives() -> None:
    text = "best quality ADDCOMM a garden ADDBASE anna BREAK ben"
    imported = import_regional_prompter(text, "ugly BREAK hat BREAK beard", ratios="1,3", base_ratio="0.3")
    assert rows(imported) == [("best quality, anna", [0, 0, 0.25, 1]), ("best quality, ben", [0.25, 0, 1, 1])]
    assert imported.prompt == "best quality, a garden"
    assert imported.negative == "ugly"
    assert [region.negative for region in imported.spec.regions] == ["hat", "beard"]
    assert {region.negative_mode for region in imported.spec.regions} == {"replace"}
    assert imported.spec.base.in_regions == 0.3
    uneven = import_regional_prompter(text, ratios="1,3", base_ratio="0.2,0.5").spec
    assert [region.strength for region in uneven.regions] == [0.8, 0.5]
    assert uneven.base.in_regions == 0
    switched = import_regional_prompter("q BREAK park BREAK anna BREAK ben", use_common=True, use_base=True)
    assert switched.prompt == "q, park"
    assert [region.prompt for region in switched.spec.regions] == ["q, anna", "q, ben"]


def test_regional_prompter_with_ratios_that_do_not_fit() -> None:
    imported = import_regional_prompter("a BREAK b BREAK c", ratios="1,1")
    assert [box for _, box in rows(imported)] == [[0, 0, 0.3333, 1], [0.3333, 0, 0.6667, 1], [0.6667, 0, 1, 1]]
    assert len(imported.notes) == 1
    rows_alone = import_regional_prompter("a ADDROW b", ratios="1,3")
    assert [box for _, box in rows(rows_alone)] == [[0, 0, 1, 0.25], [0, 0.25, 1, 1]]


def test_forge_couple_lines_and_mapping() -> None:
    imported = import_text("a sunny day\nanna, red\nben, blue", "fog")
    assert [box for _, box in rows(imported)][1] == [0.3333, 0, 0.6667, 1]
    backed = import_forge_couple("sunny\nanna\nben", background="First Line", weight=0.5, direction="Vertical")
    assert rows(backed) == [("anna", [0, 0, 1, 0.5]), ("ben", [0, 0.5, 1, 1])]
    assert backed.prompt == "sunny"
    assert backed.spec.base.in_regions == pytest.approx(1 / 3)
    mapped = import_forge_couple("anna\nben", mapping="[[0, 0.5, 0.25, 1.0, 1.0], [0.5, 1, 0, 1, 2.5]]")
    assert rows(mapped) == [("anna", [0, 0.25, 0.5, 1]), ("ben", [0.5, 0, 1, 1])]
    assert [region.weight for region in mapped.spec.regions] == [1.0, 2.5]
    assert mapped.spec.overlap == "weighted"
    assert len(import_forge_couple("a\nb\nc", mapping="[[0,1,0,1,1]]").notes) == 1


def test_mix_of_show_text() -> None:
    text = "[a <hina1> <hina2>, red]-*-[lowres]-*-[10, 20, 500, 512]|[a dog]-*-[]-*-[]|"
    imported = import_text(text, size=(1024, 512))
    assert rows(imported) == [
        ("a <hina1> <hina2>, red", [round(20 / 1024, 4), round(10 / 512, 4), 0.5, round(500 / 512, 4)]),
        ("a dog", [0, 0, 1, 1]),
    ]
    assert imported.spec.raster == "mix-of-show"
    assert imported.spec.base.negative == "empty"
    assert [region.negative for region in imported.spec.regions] == ["lowres", ""]


@pytest.mark.parametrize(
    "call",
    [
        lambda: import_text("only one line"),
        lambda: import_text(""),
        lambda: import_text("[a]-*-[b]"),
        lambda: import_mix_of_show("[a]-*-[b]-*-[__import__('os')]", size=(8, 8)),
        lambda: import_mix_of_show("[a]-*-[b]-*-[1, 2, 1, 4]", size=(8, 8)),
        lambda: import_forge_couple("a\nb", mapping="{}"),
        lambda: import_forge_couple("a\nb", mapping="[[0, 1, NaN, 1, 1], 3]"),
        lambda: import_regional_prompter(" BREAK ".join("abc" * 40)),
        lambda: import_regional_prompter("a", use_base=True),
    ],
)
def test_what_cannot_be_imported(call: object) -> None:
    with pytest.raises(InputError):
        call()  # pyright: ignore[reportCallIssue]
