"""The built package, installed into an environment of its own: commands, data files, metadata.

The environment takes torch and the rest from the one that runs the tests, so that this is quick and offline.
"""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="builds the package: needs hatchling (requirements/test.txt)")
pytest.importorskip("pip", reason="installs the package: needs pip (requirements/test.txt)")
from packaging.requirements import Requirement

import lib_loraclr

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = "Scripts" if os.name == "nt" else "bin"
SUFFIX = ".exe" if os.name == "nt" else ""


class Installed:
    """An environment with the package in it, and a folder to work in that is not the checkout."""

    def __init__(self, folder: Path) -> None:
        self.environment, self.work = folder / "environment", folder / "work"
        self.work.mkdir()
        venv.create(self.environment, with_pip=False)
        self.python = self.environment / SCRIPTS / f"python{SUFFIX}"
        self.packages = Path(self.run(self.python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"))
        (self.packages / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
        options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
        self.run(self.python, "-m", "pip", "install", *options, ROOT)

    def run(self, *command: str | Path) -> str:
        """Run a command in the work folder, where nothing of the checkout is; returns its standard output."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [*map(str, command)], cwd=self.work, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def loraclr(self, *arguments: str | Path) -> str:
        """The installed command."""
        return self.run(self.environment / SCRIPTS / f"loraclr{SUFFIX}", *arguments)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"))


def test_the_command_helps_inspects_and_merges(installed: Installed, loras: list[Path]) -> None:
    usage = installed.loraclr("merge", "--help")
    assert usage.startswith("usage: loraclr merge")
    assert "--checkpoint" in usage
    assert "sd1" in installed.loraclr("inspect", loras[0])
    installed.loraclr("merge", "--method", "sum", "--lora", loras[0], "--lora", loras[1], "--out", "sum.safetensors")
    assert (installed.work / "sum.safetensors").stat().st_size > 0
    assert installed.run(installed.python, "-m", "lib_loraclr", "--version") == lib_loraclr.__version__


def test_the_library_comes_from_the_package(installed: Installed) -> None:
    code = "import lib_loraclr; print(lib_loraclr.__file__, lib_loraclr.__version__)"
    file, stated = installed.run(installed.python, "-c", code).rsplit(" ", 1)
    assert Path(file).is_relative_to(installed.packages)
    metadata = next(installed.packages.glob("sd_webui_loraclr-*.dist-info"))
    assert metadata.name == f"sd_webui_loraclr-{stated}.dist-info"


def test_every_file_that_the_library_reads_is_in_the_package(installed: Installed) -> None:
    """All of lib_loraclr, and what the page of the command `tab` takes from the extension's root."""
    tracked = subprocess.run(
        ["git", "ls-files", "lib_loraclr", "javascript", "style.css"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    for name in tracked:
        place = name if name.startswith("lib_loraclr/") else f"lib_loraclr/assets/{name}"
        if (ROOT / name).exists():
            assert (installed.packages / place).read_bytes() == (ROOT / name).read_bytes(), name
    owned = {path.parts[0] for path in (p.relative_to(installed.packages) for p in installed.packages.iterdir())}
    assert {name for name in owned if "loraclr" in name and "dist-info" not in name} == {"lib_loraclr"}
    assert not owned & {"javascript", "tests", "miniature", "benchmarks", "scripts", "install.py"}


def test_the_page_finds_style_and_script(installed: Installed) -> None:
    pytest.importorskip("gradio", reason="the page needs gradio (tools/do.py browser)")
    code = (
        "from lib_loraclr.frontends.tab import tab;"
        "print((tab.FILES / 'style.css').stat().st_size, (tab.FILES / 'javascript' / 'loraclr_tab.js').is_file())"
    )
    assert installed.run(installed.python, "-c", code).endswith("True")


def pinned(name: str) -> dict[str, str]:
    """Package -> version of a pinned list."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^;\s]+)", text, re.MULTILINE))


@pytest.mark.parametrize(
    ("extra", "lists"),
    [("standalone", ["standalone.txt"]), ("test", ["standalone.txt", "test.txt"]), ("bench", ["bench.txt"])],
)
def test_the_pinned_lists_lie_in_the_ranges(installed: Installed, extra: str, lists: list[str]) -> None:
    metadata = next(installed.packages.glob("sd_webui_loraclr-*.dist-info")) / "METADATA"
    lines = re.findall(r"^Requires-Dist: (.*)$", metadata.read_text(encoding="utf-8"), re.MULTILINE)
    wanted = [Requirement(line) for line in lines]
    versions = {name: number for file in lists for name, number in pinned(file).items()}
    ranged = [
        r for r in wanted if r.name != "sd-webui-loraclr" and (r.marker is None or r.marker.evaluate({"extra": extra}))
    ]
    assert ranged
    for requirement in ranged:
        if requirement.name in versions:
            assert requirement.specifier.contains(versions[requirement.name]), str(requirement)
    unnamed = set(versions) - {requirement.name for requirement in wanted}
    assert not unnamed, f"pinned, but no dependency in pyproject.toml: {unnamed}"
