"""Record docs/tab.gif, the merge tab at work: choose three LoRAs, see how they interfere, merge, look at the pictures.

`python3 tools/do.py animation` runs this where gradio, Playwright and chromium are. Every frame is a screenshot of the
real page, served as by `loraclr tab` over the miniature; only the pointer is drawn in.
"""

from __future__ import annotations

import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "browser")]

from tab_page import TabPage, running_tab  # noqa: E402

VIEW = (1180, 760)
WIDTH = 860  # of the animation; the pages' text stays readable
COLOURS = 112
LIMIT = 2_000_000  # bytes
SHOWN = ("elsa", "otto", "robo")
POINTER = ((0, 0), (0, 17), (4, 13), (7, 20), (10, 19), (7, 12), (12, 12))


class Recording:
    """Frames of a page, each with its time in milliseconds, and a pointer that is where the mouse is."""

    def __init__(self, page: Any) -> None:
        self.page, self.frames, self.times, self.mouse = page, [], [], (VIEW[0] - 90, VIEW[1] - 60)

    def frame(self, milliseconds: int) -> None:
        """Take a picture and show it for this long; one that equals the last one prolongs that."""
        with Image.open(BytesIO(self.page.screenshot())) as shot:
            picture = shot.convert("RGB")
        draw = ImageDraw.Draw(picture)
        outline = [(self.mouse[0] + x, self.mouse[1] + y) for x, y in POINTER]
        draw.polygon(outline, fill="black", outline="white")
        small = picture.resize((WIDTH, round(WIDTH * picture.height / picture.width)), Image.Resampling.LANCZOS)
        if self.frames and small.tobytes() == self.frames[-1].tobytes():
            self.times[-1] += milliseconds
            return
        self.frames.append(small)
        self.times.append(milliseconds)

    def point(self, target: Any) -> None:
        """Move the pointer to an element, in three frames."""
        target.scroll_into_view_if_needed()
        box = target.bounding_box()
        end = (box["x"] + min(box["width"] / 2, 160), box["y"] + box["height"] / 2)
        start = self.mouse
        for share in (0.4, 0.8, 1.0):
            self.mouse = tuple(a + (b - a) * share for a, b in zip(start, end, strict=True))
            self.frame(90)
        self.page.mouse.move(*end)

    def click(self, target: Any, pause: int = 500) -> None:
        """Point at an element, press, and show what it did."""
        self.point(target)
        target.click()
        self.page.wait_for_timeout(250)
        self.frame(pause)

    def type(self, target: Any, text: str) -> None:
        """Type into a field, some letters a frame."""
        self.click(target, 150)
        target.fill("")
        for end in range(0, len(text) + 1, 3):
            target.press_sequentially(text[end : end + 3])
            self.frame(110)

    def show(self, target: Any, pause: int) -> None:
        """Scroll an element to the top of the page in a few frames, and stay there."""
        place = target.evaluate("e => e.getBoundingClientRect().top + scrollY - 12")
        start = self.page.evaluate("scrollY")
        for share in (0.25, 0.6, 0.9, 1.0):
            self.page.evaluate(f"scrollTo(0, {start + (place - start) * share})")
            self.frame(80)
        self.frame(pause)

    def follow(self, bar: Any, seconds: float) -> None:
        """A time lapse of a progress bar, one frame in so many seconds, until it is gone."""
        while bar.is_visible():
            self.frame(120)
            time.sleep(seconds)

    def save(self, path: Path) -> int:
        """Write the animation with one palette for all frames; returns its bytes."""
        columns = Image.new("RGB", (WIDTH, sum(frame.height for frame in self.frames[::3])))
        for number, frame in enumerate(self.frames[::3]):
            columns.paste(frame, (0, number * frame.height))
        palette = columns.quantize(COLOURS, Image.Quantize.MEDIANCUT)
        frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in self.frames]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=self.times, loop=0, optimize=True)
        return path.stat().st_size


def record(tab: TabPage) -> Recording:
    """The whole story."""
    tab.open()
    page = tab.page
    film = Recording(page)
    film.frame(900)
    for name in SHOWN:
        film.type(page.locator("#loraclr_search"), name)
        film.click(tab.row(name))
        tab.card(name).wait_for()
    page.locator("#loraclr_matrix svg .cell").nth(8).wait_for()
    film.frame(300)
    film.show(page.locator("#loraclr_matrix"), 1600)
    tab.name("elsa otto robo")
    film.click(page.locator("#loraclr_generate"), 300)
    page.locator("#loraclr_progress").wait_for()
    film.show(page.locator("#loraclr_progress"), 200)
    film.follow(page.locator("#loraclr_progress"), seconds=25)
    tab.wait_done()
    page.locator(".lct-result").wait_for()
    film.show(page.locator("#loraclr_result").first, 2600)
    tab.set_number("loraclr_preview_cfg", 4)  # what the miniature is for
    film.click(page.locator("#loraclr_preview"), 300)
    film.follow(page.locator("#loraclr_progress"), seconds=10)
    page.locator("#loraclr_grid img").nth(3 * len(SHOWN) - 1).wait_for()
    tab.wait_done()
    film.show(page.locator("#loraclr_grid"), 3500)
    return film


def main() -> int:
    """Record into docs/tab.gif, or into the file that is named."""
    from conftest import CHROMIUM
    from playwright.sync_api import sync_playwright

    path = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "docs" / "tab.gif")
    with tempfile.TemporaryDirectory() as folder, running_tab(Path(folder)) as running, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": VIEW[0], "height": VIEW[1]})
        page.set_default_timeout(900_000)
        film = record(TabPage(page, running))
        browser.close()
    size = film.save(path)
    print(f"{path}: {len(film.frames)} frames, {sum(film.times) / 1000:.1f} s, {size / 1e6:.2f} MB")
    return 0 if size <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
