"""Puts the regional axes into the host's X/Y/Z plot, once."""

from __future__ import annotations

import logging

from modules import scripts

from lib_loraclr.frontends.panel.axes import PREFIX, axis_options
from lib_loraclr.frontends.panel.layouts import BUILT_IN
from lib_loraclr.hosts.webui.regional_script import LAYOUTS

MODULES = ("xyz_grid.py", "scripts.xyz_grid", "xy_grid.py")


def add_axes() -> None:
    """Harmless where the plot is missing or has the axes already (Reload UI). Never raises."""
    try:
        for data in scripts.scripts_data:
            if data.script_class.__module__ not in MODULES or not hasattr(data.module, "AxisOption"):
                continue
            options = data.module.axis_options
            if not any(str(option.label).startswith(PREFIX) for option in options):
                options.extend(axis_options(data.module.AxisOption, saved_layouts))
    except Exception:
        logging.getLogger("loraclr").exception("The regional axes could not be added to the X/Y/Z plot.")


def saved_layouts() -> list[tuple[str, str]]:
    """(name, JSON) of all layouts."""
    return [(name, LAYOUTS.load(name)) for name in (*BUILT_IN, *LAYOUTS.names())]
