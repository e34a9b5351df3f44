"""The rating page, once through in a real browser, in whichever gradio is installed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
VARIANTS = ("secret-method", "other-method")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One concept, two variants, one picture each."""
    variants = []
    for number, variant in enumerate(VARIANTS):
        name = f"pictures/{variant}/anna-1.png"
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (96, 96), (40 + 90 * number, 90, 160)).save(tmp_path / name)
        variants.append({"name": variant, "label": variant, "pictures": {"anna": [name]}})
    Image.new("RGB", (96, 96), (200, 90, 60)).save(tmp_path / "anna.png")
    concepts = [{"name": "anna", "references": ["anna.png"], "prompts": ["a photo of anna"]}]
    (tmp_path / "evaluation.json").write_text(
        json.dumps({"format": 1, "settings": {}, "concepts": concepts, "ways": variants, "rows": []})
    )
    return tmp_path


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    """The page, served as a user would serve it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "lib_loraclr", "rate", str(folder), "--port", str(port)]
    offline = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    server = subprocess.Popen(command, cwd=ROOT, env=os.environ | offline)
    try:
        url = f"http://127.0.0.1:{port}/"
        for _ in range(600):
            assert server.poll() is None, "the page did not start"
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=20)


def test_rate_everything(folder: Path, address: str) -> None:
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        page.set_default_timeout(60_000)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.locator("#rater textarea, #rater input").first.fill("ann")
        page.locator("button#start, #start button").first.click()
        page.get_by_text("Picture 1 of 2").wait_for()
        assert page.locator("#trial img").count() == 2
        assert page.get_by_text("“a photo of anna”").count() == 1
        assert not [variant for variant in VARIANTS if variant in page.content()], "the page tells the method"
        following = page.locator("button#next, #next button").first
        following.click()
        page.get_by_text("Give both ratings").wait_for()
        for number, (identity, quality) in enumerate(((4, 2), (1, 3)), 1):
            page.locator("#identity").get_by_text(str(identity), exact=True).click()
            page.locator("#quality").get_by_text(str(quality), exact=True).click()
            following.click()
            page.get_by_text("Picture 2 of 2" if number == 1 else "All pictures are rated").wait_for()
            assert page.locator("input[type=radio]:checked").count() == 0, "the next picture starts unrated"
        picture = os.environ.get("LORACLR_SCREENSHOTS")
        page.locator("#results").get_by_text("Results (look when you are done)").click()
        page.locator("button#show, #show button").first.click()
        page.locator(".loraclr-results").wait_for()
        assert page.locator(".loraclr-results tr").count() == 3
        if picture:
            page.screenshot(path=str(Path(picture) / f"rating-{sys.modules['gradio'].__version__}.png"))
        browser.close()
    lines = (folder / "ratings.csv").read_text().splitlines()
    assert len(lines) == 3
    rated = {tuple(line.split(",")[i] for i in (0, 4, 5)) for line in lines[1:]}
    assert rated == {("ann", "4", "2"), ("ann", "1", "3")}
    assert {line.split(",")[1] for line in lines[1:]} == set(VARIANTS)
    strangers = [url for url in asked if not url.startswith((address, "data:", "blob:", "ws://127.0.0.1"))]
    fonts = ("fonts.googleapis.com", "fonts.gstatic.com", "cdnjs.cloudflare.com")  # gradio's own page asks for these
    assert not [url for url in strangers if not any(name in url for name in fonts)]
