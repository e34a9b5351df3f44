"""Which adapter fits the program we run in, by what is there and never by name."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from lib_loraclr.core.errors import InputError

if TYPE_CHECKING:
    from lib_loraclr.hosts.webui.application import WebuiApplication

_lock = threading.Lock()
_application: WebuiApplication | None = None


def webui_application() -> WebuiApplication:
    """The one `Application` of this process: Reload UI gets the same, so that jobs and their states survive it.

    Its `regional()` is the port of the regional prompter.

    Raises InputError "unsupported-host" outside a WebUI and in one whose models nobody here can run.
    """
    global _application
    with _lock:
        if _application is None:
            _application = _make()
        return _application


def _make() -> WebuiApplication:
    # The host has long imported its own memory management; a left-over folder of another host is not imported by this.
    if "backend.memory_management" in sys.modules:
        from lib_loraclr.hosts.webui.forge.host import FORGE as FAMILY
    elif "ldm_patched.modules.model_management" in sys.modules:
        from lib_loraclr.hosts.webui.ldm_patched import LDM_PATCHED as FAMILY
    elif "modules.sd_models" in sys.modules and "ldm" in sys.modules:
        from lib_loraclr.hosts.webui.a1111.host import A1111 as FAMILY
    else:
        raise InputError("unsupported-host", "This program is not a WebUI that merging is known to work in.")
    from lib_loraclr.hosts.webui.application import WebuiApplication

    return WebuiApplication(FAMILY)
