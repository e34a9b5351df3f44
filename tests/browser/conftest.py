"""Chromium and a running tab, or a clear reason why there is none."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("LORACLR_CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), "")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="no playwright; tools/do.py browser brings it")
    if not CHROMIUM:
        pytest.skip("there is no chromium; install Debian's package or set LORACLR_CHROMIUM")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.fixture(scope="session")
def merge_tab(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One running tab for all tests of a run."""
    pytest.importorskip("gradio", reason="no gradio; tools/do.py browser brings it")
    from tab_page import running_tab

    with running_tab(tmp_path_factory.mktemp("tab")) as tab:
        yield tab


@pytest.fixture
def tab_page(browser: Any, merge_tab: Any) -> Iterator[Any]:
    """The tab in a fresh window. An error of the page's script fails the test."""
    from tab_page import TabPage

    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.route("**/*", lambda route: route.continue_() if "127.0.0.1" in route.request.url else route.abort())
    shown = TabPage(page, merge_tab)
    yield shown
    page.close()
    assert not shown.errors


@pytest.fixture(scope="session")
def regional_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One running page with the regional panel for all tests of a run."""
    pytest.importorskip("gradio", reason="no gradio; tools/do.py browser brings it")
    from regional_page import running_page

    with running_page(tmp_path_factory.mktemp("regional") / "layouts") as running:
        yield running


@pytest.fixture
def panel(browser: Any, regional_address: str) -> Iterator[Any]:
    """The panel in a fresh window. An error of the page's script fails the test."""
    from panel_driver import Panel

    context = browser.new_context(viewport={"width": 1200, "height": 1300})
    shown = Panel(context.new_page(), regional_address).open()
    yield shown
    context.close()
    assert not shown.errors
