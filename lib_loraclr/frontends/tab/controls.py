"""Gradio controls for the settings, made from the same list that parses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from lib_loraclr.core.methods import METHODS, get_method
from lib_loraclr.frontends.gradio_compat import volatile
from lib_loraclr.frontends.tab import settings
from lib_loraclr.frontends.tab.settings import ADVANCED, FIELDS, NAMES, SIMPLE, Advanced, method_name, method_title
from lib_loraclr.html import fragment

RANKS = [("Exact", "exact"), ("One rank", "fixed"), ("Share of the effect", "energy"), ("File size", "size")]


@dataclass
class Controls:
    """Every control by its setting's name, and what shows and hides with the method and the rank."""

    by_name: dict[str, Any]
    groups: dict[str, Any]
    summary: Any

    @property
    def inputs(self) -> list[Any]:
        """In the order of `settings.NAMES`."""
        return [self.by_name[name] for name in NAMES]


def main_controls(by_name: dict[str, Any]) -> Any:
    """Name, preset, method, rank, precision: what most people set. Returns the method's summary line."""
    with gr.Row(elem_classes=["lct-row-2"]):
        by_name["preset"] = _radio("preset")
        with gr.Column(min_width=260):
            titles = [method_title(name) for name in METHODS]
            by_name["method"] = volatile(
                gr.Dropdown(
                    titles, value=method_title(SIMPLE["method"]), label=FIELDS["method"].label, elem_id="loraclr_method"
                )
            )
            summary = gr.HTML(summary_html(SIMPLE["method"]))
    with gr.Row(elem_classes=["lct-row-2"]):
        with gr.Column(min_width=260):
            by_name["rank_kind"] = _radio("rank_kind", "rank", RANKS)
            by_name["rank_fixed"] = _number("rank_fixed", "Rank of every layer", visible=False, precision=0)
            by_name["rank_energy"] = _number("rank_energy", "Share of the effect to keep (0 to 1)", visible=False)
            by_name["rank_size"] = _number("rank_size", "Largest file in MB", visible=False)
        with gr.Column(min_width=260):
            by_name["dtype"] = _radio("dtype")
    with gr.Row(elem_classes=["lct-row-2"]):
        by_name["name"] = volatile(
            gr.Textbox(SIMPLE["name"], label="Name of the new LoRA", max_lines=1, elem_id="loraclr_name")
        )
        by_name["overwrite"] = _checkbox("overwrite")
    return summary


def advanced_controls(by_name: dict[str, Any]) -> dict[str, Any]:
    """Seed, report, and the options of capture and method; returns the groups by method name."""
    with gr.Row():
        by_name["seed"] = _number("seed", FIELDS["seed"].label, info=FIELDS["seed"].help, precision=0)
        by_name["report"] = _checkbox("report")
    groups: dict[str, Any] = {}
    for method in ("", *METHODS):
        settings_of_group = [setting for setting in ADVANCED if setting.method == method]
        shown = not method or method == SIMPLE["method"]
        with gr.Column(visible=shown and bool(settings_of_group), elem_classes=["lct-options"]) as groups[method]:
            if settings_of_group:
                title = method_title(method) if method else "How the model is watched"
                gr.HTML(fragment("tab_parts.html", "group_title", title))
                with gr.Row(elem_classes=["lct-option-row"]):
                    for setting in settings_of_group:
                        by_name[setting.name] = _option(setting)
    return groups


def shown_groups(method: str) -> list[Any]:
    """Updates for the groups of `advanced_controls`, in their order; `method` by name or title."""
    method = method_name(method)
    samples = get_method(method).needs_statistics
    own = {setting.method for setting in ADVANCED}
    return [gr.update(visible=name == method and name in own if name else samples) for name in ("", *METHODS)]


def shown_rank(kind: str) -> list[Any]:
    """Updates for the three rank values."""
    return [gr.update(visible=kind == name) for name in settings.RANK_KINDS[1:]]


def summary_html(method: str) -> str:
    """What the chosen method does; `method` by name or title."""
    return fragment("tab_parts.html", "soft", get_method(method_name(method)).summary, "lct-summary")


def _option(setting: Advanced) -> Any:
    field, elem_id = setting.field, "loraclr_" + setting.name.replace(".", "_").replace("-", "_")
    common: dict[str, Any] = {"label": field.label, "info": field.help, "elem_id": elem_id, "min_width": 220}
    if field.choices:
        return volatile(gr.Dropdown(list(field.choices), value=setting.default, **common))
    if field.type == "flag":
        return volatile(gr.Checkbox(setting.default, **common))
    if field.type in ("whole", "number"):
        precision = 0 if field.type == "whole" else None
        return volatile(gr.Number(setting.default, precision=precision, **common))
    return volatile(gr.Textbox(setting.default, max_lines=1, **common))


def _radio(name: str, field_name: str = "", choices: Sequence[tuple[str, str]] = ()) -> Any:
    """A field's choices, or `choices` (title, name)."""
    field = FIELDS[field_name or name]
    shown = list(choices) or [(field.words(choice), choice) for choice in field.choices]
    return volatile(gr.Radio(shown, value=SIMPLE[name], label=field.label, info=field.help, elem_id=f"loraclr_{name}"))


def _number(
    name: str, label: str, *, visible: bool = True, info: str | None = None, precision: int | None = None
) -> Any:
    made = gr.Number(
        SIMPLE[name], label=label, info=info, precision=precision, visible=visible, elem_id=f"loraclr_{name}"
    )
    return volatile(made)


def _checkbox(name: str) -> Any:
    field = FIELDS[name]
    return volatile(gr.Checkbox(SIMPLE[name], label=field.label, info=field.help, elem_id=f"loraclr_{name}"))
