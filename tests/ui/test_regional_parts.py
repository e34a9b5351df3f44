"""Arguments, axes, layouts, form and questions of the regional panel, without a browser and without gradio."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lib_loraclr.core.errors import InputError
from lib_loraclr.frontends.panel.axes import ATTRIBUTE, PREFIX, axis_options, with_axes
from lib_loraclr.frontends.panel.form import panel_form
from lib_loraclr.frontends.panel.layouts import BUILT_IN, LayoutStore
from lib_loraclr.frontends.panel.questions import panel_bridge
from lib_loraclr.frontends.panel.script import read_arguments
from lib_loraclr.frontends.panel.services import Concept, NoServices, concepts_of
from lib_loraclr.regional import Mask, dump_spec, parse_spec, validate_spec
from lib_loraclr.regional.layout import read_regions, split_prompt_text
from lib_loraclr.regional.preview import weight_maps

SPEC = {"v": 1, "regions": [{"id": "a", "shape": {"t": "box", "r": [0.0, 0.0, 0.5, 1.0]}, "prompt": "a red cat"}]}
TEXT = json.dumps(SPEC)


@pytest.mark.parametrize(
    "given",
    [
        [True, SPEC], [True, TEXT], [SPEC], [TEXT], [{"enabled": True, "spec": SPEC}], [{"spec": TEXT}],
        ["true", TEXT], [True, TEXT, "more", 3],
    ],
)  # fmt: skip
def test_every_form_of_the_arguments_is_the_same_spec(given: list[Any]) -> None:
    enabled, raw = read_arguments(given)
    assert enabled is True
    assert parse_spec(raw) == parse_spec(SPEC)


@pytest.mark.parametrize("given", [[], [False], [False, TEXT], ["False", TEXT], [None, None], [{"enabled": False}]])
def test_arguments_that_mean_off(given: list[Any]) -> None:
    assert read_arguments(given)[0] is False


@pytest.mark.parametrize("given", [[True], [True, None], [True, ""], [True, {}]])
def test_enabled_without_regions_is_an_empty_layout(given: list[Any]) -> None:
    spec, problems = read_regions(read_arguments(given)[1])
    assert spec.regions == ()
    assert problems == []


@pytest.mark.parametrize("raw", ["{broken", "[1]", 7, {"regions": 5}, {"regions": [{"shape": None}]}, {"feather": "x"}])
def test_what_is_wrong_is_said_in_a_sentence(raw: Any) -> None:
    _, problems = read_regions(raw)
    assert problems
    assert all(problem.message.endswith(".") for problem in problems)


def test_infotext_brings_back_everything_with_masks() -> None:
    """Written and quoted as the hosts do it, and found again by their pattern."""
    import re

    spec = json.loads(TEXT)
    spec["regions"][0] |= {"prompt": 'say "hi", (x:1.2) <lora:a:1>\n[a:b:0.5]', "future": {"k": [1]}}
    mask = Mask(16, 8, bytes([255, 0, 0, 255] * 32))
    packed = base64.b64encode(zlib.compress(mask.values)).decode()
    spec["regions"].append({"shape": {"t": "mask", "w": 16, "h": 8, "bits": 8, "z": packed}, "prompt": "b"})
    value = dump_spec(parse_spec(spec))
    line = f"Steps: 20, Sampler: Euler, Regional: {json.dumps(value, ensure_ascii=False)}, Size: 64x64"
    pattern = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
    found = dict(pattern.findall(line))
    assert found["Size"] == "64x64"
    assert parse_spec(json.loads(found["Regional"])) == parse_spec(spec)


def axes() -> dict[str, Any]:
    made = axis_options(
        lambda label, kind, apply, **more: SimpleNamespace(label=label, type=kind, apply=apply, **more),
        lambda: [(name, json.dumps(spec)) for name, spec in BUILT_IN.items()],
    )
    return {option.label.removeprefix(PREFIX): option for option in made}


@pytest.mark.parametrize(
    ("label", "text", "read"),
    [
        ("strength", "0.5", lambda s: s.regions[0].strength == 0.5),
        ("base share", "0.2", lambda s: s.base.in_regions == 0.2),
        ("feather", "0.1", lambda s: s.feather == 0.1),
        ("isolation", "0.5", lambda s: s.isolation.strength == 0.5),
        ("isolation end", "0.9", lambda s: s.isolation.end == 0.9),
        ("separate until", "0.3", lambda s: s.isolation.separate_until == 0.3),
        ("start", "0.25", lambda s: s.steps == (0.25, 1.0)),
        ("end", "0.75", lambda s: s.steps == (0.0, 0.75)),
        ("overlap", "top", lambda s: s.overlap == "top"),
        ("raster", "grow", lambda s: s.raster == "grow"),
        ("pooled", "False", lambda s: s.pooled is False),
        ("hires strength", "0.3", lambda s: s.hires.strength == 0.3),
        ("region 1 on", "no", lambda s: s.active() == ()),
        ("region 1 strength", "0.4", lambda s: s.regions[0].strength == 0.4),
        ("layout", "Two side by side", lambda s: [r.prompt for r in s.regions] == ["a red cat", ""]),
    ],
)
def test_axes_change_what_they_say(label: str, text: str, read: Any) -> None:
    option, p = axes()[label], SimpleNamespace()
    option.apply(p, option.type(text), [text])
    enabled, raw = with_axes(True, TEXT, getattr(p, ATTRIBUTE))
    spec, problems = validate_spec(raw)
    assert problems == []
    assert enabled
    assert read(spec)


def test_axes_on_words_and_cells_do_not_share() -> None:
    option = axes()["region 1 prompt S/R"]
    cells = [SimpleNamespace(), SimpleNamespace()]
    for p, value in zip(cells, ("red", "blue"), strict=True):
        option.apply(p, value, ["red", "blue"])
    prompts = [parse_spec(with_axes(True, TEXT, getattr(p, ATTRIBUTE))[1]).regions[0].prompt for p in cells]
    assert prompts == ["a red cat", "a blue cat"]
    off = SimpleNamespace()
    axes()["on"].apply(off, axes()["on"].type("False"), [])
    assert with_axes(True, TEXT, getattr(off, ATTRIBUTE)) == (False, SPEC)
    assert with_axes(True, "{broken", {"feather": 0.1}) == (True, "{broken")


def test_built_in_layouts_are_valid_and_own_ones_come_back(tmp_path: Path) -> None:
    store = LayoutStore(tmp_path / "layouts")
    assert [layout["name"] for layout in store.listed()] == list(BUILT_IN)
    assert not (tmp_path / "layouts").exists()  # looking makes nothing
    for spec in BUILT_IN.values():
        assert validate_spec(dict(spec))[1] == []
    store.save("my pair", TEXT)
    assert parse_spec(store.load("my pair")) == parse_spec(SPEC)
    assert store.listed()[-1]["own"] is True
    (tmp_path / "layouts" / "broken.json").write_text("{", encoding="utf-8")
    assert store.listed()[-1]["name"] == "my pair"
    assert [path.name for path in (tmp_path / "layouts").iterdir() if path.name.startswith(".")] == []
    store.delete("my pair")
    with pytest.raises(InputError):
        store.load("my pair")


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "a/b", "a\\b", "con", "x" * 61, "a.json:b", "Two by two", "\0", "~"]
)
def test_names_that_are_no_plain_file_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="name"):
        LayoutStore(tmp_path).save(name, TEXT)
    assert list(tmp_path.iterdir()) == []


def test_the_form_knows_every_default_that_the_parser_has() -> None:
    """A layout made of the panel's defaults alone is the parser's default layout."""
    form = panel_form()
    assert form["colours"][:2] == ["#0072b2", "#e69f00"]
    spec = form["defaults"]["spec"]
    region = {**form["defaults"]["region"], "shape": {"t": "box", "r": [0.0, 0.0, 0.5, 1.0]}, "prompt": "a red cat"}
    read, problems = validate_spec({**spec, "regions": [{**region, "id": "a"}]})
    assert problems == []
    assert read == parse_spec(SPEC)
    for group in form["groups"]:
        for field in group["fields"]:
            owner: Any = spec
            for part in field["key"].split("."):
                owner = owner[part]
            assert "choices" not in field or owner in [choice for choice, _ in field["choices"]]


class Services:
    def count_tokens(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        return [(len(text.split()), 75) for text in texts]

    def concepts(self) -> list[Concept]:
        return [Concept("anna", "anna1", "merged")]


def ask(tmp_path: Path, question: str, **data: Any) -> dict[str, Any]:
    questions = panel_bridge(Services(), LayoutStore(tmp_path))
    return json.loads(questions.answer(json.dumps({"serial": 5, "question": question, **data})))


def test_questions_of_the_panel(tmp_path: Path) -> None:
    assert ask(tmp_path, "tokens", texts=["a b", ""]) == {"serial": 5, "counts": [[2, 75], [0, 75]]}
    assert ask(tmp_path, "validate", spec=TEXT)["problems"] == []
    assert "JSON" in ask(tmp_path, "validate", spec="{")["problems"][0]["message"]
    assert len(ask(tmp_path, "preview", spec=TEXT, width=96, height=64)["maps"]) == 5
    found = ask(tmp_path, "import", text="a sky ADDBASE a cat BREAK a dog")
    assert found["prompt"] == "a sky"
    assert [region["prompt"] for region in found["spec"]["regions"]] == ["a cat", "a dog"]
    assert ask(tmp_path, "concepts")["concepts"][0]["trigger"] == "anna1"
    assert ask(tmp_path, "preset-save", name="x", spec=TEXT)["presets"][-1]["name"] == "x"
    assert ask(tmp_path, "preset-delete", name="x")["presets"][-1]["own"] is False


@pytest.mark.parametrize(
    ("question", "data"),
    [
        ("nothing", {}), ("tokens", {"texts": 3}), ("preview", {"spec": TEXT, "width": "wide", "height": 8}),
        ("preview", {"spec": TEXT, "width": float("nan"), "height": 8}),
        ("preset-save", {"name": "../x", "spec": TEXT}),
        ("preset-delete", {"name": "none"}), ("import", {"text": ""}), ("preset-save", {"name": "x", "spec": "{"}),
    ],
)  # fmt: skip
def test_bad_questions_get_an_error_and_a_serial(tmp_path: Path, question: str, data: dict[str, Any]) -> None:
    answer = ask(tmp_path, question, **data)
    assert answer["serial"] == 5
    assert answer["error"]["message"]
    assert json.loads(panel_bridge(NoServices(), LayoutStore(tmp_path)).answer("{"))["error"]


def test_weight_maps_show_each_region_where_it_acts() -> None:
    import io

    from PIL import Image

    found = weight_maps({**SPEC, "feather": 0}, 128, 64)["maps"]
    assert [one["label"] for one in found][1:] == [
        "layers of 16 x 8", "layers of 8 x 4", "layers of 4 x 2", "layers of 2 x 1",
    ]  # fmt: skip
    for one in found:
        picture = Image.open(io.BytesIO(base64.b64decode(one["png"].split(",")[1])))
        assert picture.size == (128, 64)
        assert picture.getpixel((3, 60)) == (0, 114, 178)
        assert picture.getpixel((120, 5)) == (232, 232, 236)


def test_png_masks_by_transparency_and_by_brightness() -> None:
    import io

    from PIL import Image

    for picture in (Image.new("L", (4, 2), 0), Image.new("RGBA", (4, 2), (9, 9, 9, 0))):
        picture.putpixel((3, 1), 255 if picture.mode == "L" else (9, 9, 9, 255))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        png = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        spec, problems = read_regions({"regions": [{"shape": {"t": "png", "png": png}, "prompt": "x"}]})
        assert problems == []
        assert spec.regions[0].shape == Mask(4, 2, bytes([0] * 7 + [255]))
    _, problems = read_regions({"regions": [{"shape": {"t": "png", "png": "AAAA"}, "prompt": "x"}]})
    assert "not a PNG" in problems[0].message


def test_concepts_come_from_the_recipe_of_a_merged_file() -> None:
    anna = {"name": "anna", "trigger": " anna1 woman ", "class_word": "woman"}
    bert = {"name": "bert", "trigger": "bert1", "class_word": "man"}
    recipe = {"inputs": [anna, bert, {"name": "ink"}, {"trigger": "no name"}, 7]}
    found = concepts_of("merged", {"loraclr_recipe": json.dumps(recipe)})
    assert concepts_of("merged", {"loraclr_recipe": recipe, "ss_steps": 7}) == found  # as A1111 and Forge hand it on
    assert found == [
        Concept("anna", "anna1 woman", "merged", phrase="anna1 woman"),
        Concept("bert", "bert1", "merged", phrase="bert1 man"),
        Concept("ink", "", "merged"),
    ]
    assert concepts_of("other", {"ss_output_name": "other"}) == []


@pytest.mark.parametrize(
    ("separator", "prompt", "wanted"),
    [
        ("auto", "sky ADDBASE a BREAK b", ("sky", ["a", "b"])),
        ("BREAK", "a BREAK b", ("a, b", ["a", "b"])),
        ("AND", "a AND b", ("a, b", ["a", "b"])),
        ("line", "a\nb", ("a, b", ["a", "b"])),
    ],
)
def test_text_mode_divides_the_prompt(separator: str, prompt: str, wanted: tuple[str, list[str]]) -> None:
    assert split_prompt_text(prompt, separator) == wanted
