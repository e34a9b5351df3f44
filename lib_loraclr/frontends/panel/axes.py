"""Axes for the hosts' X/Y/Z plot: a cell's values are kept on its processing object and applied to the spec's JSON."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lib_loraclr.options import all_new_names
from lib_loraclr.regional.spec import OVERLAPS, RASTERS, Region, RegionalSpec

PREFIX = "[Regional] "
ATTRIBUTE = "_loraclr_regional_axes"
REGION_AXES = 4  # regions 1 to 4 have axes of their own

Change = Callable[[dict[str, Any]], None]


def with_axes(enabled: bool, raw: Any, values: Mapping[str, Any]) -> tuple[bool, Any]:
    """(enabled, regions) with the values of a plot's cell put in; what is not valid JSON stays as it is."""
    if not values:
        return enabled, raw
    spec = _as_object(raw)
    if spec is None:
        return enabled, raw
    spec = all_new_names(RegionalSpec, spec)
    if isinstance(spec.get("regions"), list):
        spec["regions"] = [all_new_names(Region, one) if isinstance(one, dict) else one for one in spec["regions"]]
    for name, value in values.items():
        if name == "on":
            enabled = value
        elif name.startswith("region "):
            _change_region(spec, name, value)
        elif name == "strength":
            for region in _regions(spec):
                region["strength"] = value
        else:
            _put(spec, name, value)
    return enabled, spec


def axis_options(option: Callable[..., Any], layouts: Callable[[], Sequence[tuple[str, str]]]) -> list[Any]:
    """Options made with the host's `AxisOption` class. `layouts` gives (name, JSON) of the saved layouts."""
    found = [
        _axis(option, "on", flag, "on", choices=lambda: ["True", "False"]),
        _axis(option, "strength", float, "strength"),
        _axis(option, "base share", float, "base.in_regions"),
        _axis(option, "feather", float, "feather"),
        _axis(option, "isolation", float, "isolation.strength"),
        _axis(option, "isolation end", float, "isolation.end"),
        _axis(option, "separate until", float, "isolation.separate_until"),
        _axis(option, "start", float, "steps.0"),
        _axis(option, "end", float, "steps.1"),
        _axis(option, "overlap", str, "overlap", choices=lambda: list(OVERLAPS)),
        _axis(option, "raster", str, "raster", choices=lambda: list(RASTERS)),
        _axis(option, "pooled", flag, "pooled", choices=lambda: ["True", "False"]),
        _axis(option, "hires strength", float, "hires.strength"),
    ]
    for number in range(1, REGION_AXES + 1):
        place = f"region {number}"
        found.append(_axis(option, f"{place} on", flag, f"{place} on", choices=lambda: ["True", "False"]))
        found.append(_axis(option, f"{place} strength", float, f"{place} strength"))
        found.append(option(f"{PREFIX}{place} prompt S/R", str, _replace_words(place)))
    names = lambda: [name for name, _ in layouts()]  # noqa: E731
    found.append(option(f"{PREFIX}layout", str, _layout(layouts), choices=names))
    return found


def add_axes(
    plots: Iterable[tuple[Callable[..., Any], list[Any]]], layouts: Callable[[], Sequence[tuple[str, str]]]
) -> None:
    """Put the options into every plot, given as (class of an axis, all its axes), that does not have them already."""
    for option, axes in plots:
        if not any(str(axis.label).startswith(PREFIX) for axis in axes):
            axes.extend(axis_options(option, layouts))


def flag(text: Any) -> bool:
    """True or false as written in a plot's field."""
    return str(text).strip().lower() in ("true", "1", "yes", "on")


def values_of(p: Any) -> dict[str, Any]:
    """The axis values on a processing object, its own: the plot copies objects, so the mapping is replaced."""
    values = dict(getattr(p, ATTRIBUTE, {}))
    setattr(p, ATTRIBUTE, values)
    return values


def _axis(option: Callable[..., Any], label: str, kind: Callable[[Any], Any], name: str, **more: Any) -> Any:
    def apply(p: Any, value: Any, values: Sequence[Any]) -> None:
        values_of(p)[name] = value

    return option(f"{PREFIX}{label}", kind, apply, **more)


def _replace_words(place: str) -> Callable[[Any, Any, Sequence[Any]], None]:
    """Search and replace in one region's prompt: the first value of the axis is what is searched for."""

    def apply(p: Any, value: Any, values: Sequence[Any]) -> None:
        values_of(p)[f"{place} words"] = (values[0], value)

    return apply


def _layout(layouts: Callable[[], Sequence[tuple[str, str]]]) -> Callable[[Any, Any, Sequence[Any]], None]:
    def apply(p: Any, value: Any, values: Sequence[Any]) -> None:
        known = dict(layouts())
        if value not in known:
            raise RuntimeError(f"There is no layout '{value}'.")
        values_of(p)["layout"] = json.loads(known[value])

    return apply


def _as_object(raw: Any) -> dict[str, Any] | None:
    if isinstance(raw, Mapping):
        return copy.deepcopy(dict(raw))
    try:
        loaded = json.loads(raw) if raw else {}
    except (TypeError, ValueError, RecursionError):
        return None
    return loaded if isinstance(loaded, dict) else None


def _regions(spec: dict[str, Any]) -> list[dict[str, Any]]:
    regions = spec.get("regions")
    return [region for region in regions if isinstance(region, dict)] if isinstance(regions, list) else []


def _change_region(spec: dict[str, Any], name: str, value: Any) -> None:
    match = re.fullmatch(r"region (\d+) (\w+)", name)
    regions = _regions(spec)
    if match is None or int(match.group(1)) > len(regions):
        return
    region, key = regions[int(match.group(1)) - 1], match.group(2)
    if key == "words":
        region["prompt"] = str(region.get("prompt") or "").replace(str(value[0]), str(value[1]))
    else:
        region[key] = value


def _put(spec: dict[str, Any], name: str, value: Any) -> None:
    if name == "layout":
        _use_layout(spec, value)
        return
    first, _, rest = name.partition(".")
    if first == "steps":
        window = list(spec.get("steps") or (0.0, 1.0))
        window[int(rest)] = value
        spec["steps"] = window
    elif rest:
        inner = spec.get(first)
        spec[first] = {**(inner if isinstance(inner, dict) else {}), rest: value}
    else:
        spec[first] = value


def _use_layout(spec: dict[str, Any], layout: dict[str, Any]) -> None:
    """The layout's shapes under the present prompts, as choosing it in the panel does."""
    present = _regions(spec)
    chosen = copy.deepcopy(_regions(layout))
    for region, own in zip(chosen, present, strict=False):
        if not region.get("prompt"):
            region.update(
                {key: own[key] for key in ("prompt", "negative", "negative_mode", "name", "concept") if key in own}
            )
    spec.update({key: value for key, value in layout.items() if key != "regions"})
    spec["regions"] = chosen
