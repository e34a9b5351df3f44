"""Take the pictures of docs/screenshots again: the merge tab in every state and the regional panel, light and dark.

`python3 tools/do.py screenshots` runs this where gradio, Playwright and chromium are. The states are those of the
browser tests; the pictures are then brought down to a palette, so that all of them together stay small.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
COLOURS = 128
PAINTED = ("preview",)  # states that show pictures: a palette for flat surfaces would spoil them


def shrink(folder: Path) -> int:
    """Bring every picture down to a palette; returns the bytes of all of them."""
    total = 0
    for path in sorted(folder.glob("*.png")):
        with Image.open(path) as picture:
            if path.stem.startswith(PAINTED):
                small = picture.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT)
            else:
                small = picture.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        small.save(path, optimize=True)
        size = path.stat().st_size
        print(f"{size / 1e3:7.1f} kB  {path.name}")
        total += size
    return total


def main() -> int:
    """Run the tests that take the pictures, then make these small."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "docs" / "screenshots").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    tests = ["-m", "pytest", "-q", "-m", "browser", "-p", "no:cacheprovider", "tests/browser/test_merge_tab.py",
             "tests/browser/test_regional_panel.py::test_the_panel_fits_its_page"]  # fmt: skip
    environment = {**os.environ, "LORACLR_SCREENSHOTS": str(folder)}
    status = subprocess.run([sys.executable, *tests], cwd=ROOT, env=environment, check=False).returncode
    print(f"{shrink(folder) / 1e3:7.1f} kB  in all")
    return status


if __name__ == "__main__":
    sys.exit(main())
