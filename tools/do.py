"""Set up a private environment in .venv and run one task in it: `python3 tools/do.py demo`, `… test` or `… browser`.

`browser` drives the pages in chromium under both gradio versions that WebUIs bring; each has a small environment of its
own, .venv-gradio3 and .venv-gradio4, which takes torch and the rest from .venv. `screenshots` takes the pictures of
docs/screenshots again, `animation` records docs/tab.gif.

Standard library only, so that a fresh machine with Python 3.10 and pip is enough.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
INTERPRETER = "Scripts/python.exe" if os.name == "nt" else "bin/python"
PYTHON = VENV / INTERPRETER
TASKS = {
    "demo": ("standalone.txt", [["miniature/demo.py"]]),
    "test": (
        "test.txt",
        [
            ["-m", "ruff", "check", "."],
            ["-m", "ruff", "format", "--check", "."],
            ["-m", "pyright", "--pythonpath", str(PYTHON)],
            ["-m", "pytest", "-q", "--durations=15"],
        ],
    ),
}
RECORDINGS = ("screenshots", "animation")  # scripts beside this one that take pictures of the pages for the docs


def install(requirements: Path, folder: Path = VENV) -> Path:
    """Create an environment if needed, install `requirements` unless this very list is there; returns its python."""
    if sys.version_info < (3, 10):  # noqa: UP036 (this file runs before anything has checked)
        sys.exit("Python 3.10 or newer is needed.")
    python = folder / INTERPRETER
    if not python.exists():
        # Debian splits ensurepip off, so the environment is made without pip and filled by the pip outside.
        venv.create(folder, with_pip=False, clear=folder.exists())
    text = "".join(path.read_text() for path in sorted(requirements.parent.glob("*.txt")))
    stamp = folder / f"{requirements.stem}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if stamp.exists():
        return python
    print(f"Installing {requirements.relative_to(ROOT)} into {folder.name} (once, some minutes) …", flush=True)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*pip, "-r", str(requirements)], check=False).returncode:
        sys.exit(f"The installation failed; the lines above say why. Nothing outside {folder.name} was touched.")
    stamp.touch()
    return python


def site_packages(python: Path) -> Path:
    """Where an environment keeps its packages."""
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    return Path(subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip())


def run(python: Path, command: list[str]) -> int:
    """Run a command in an environment and return its status."""
    print("\n$ python", *command, flush=True)
    return subprocess.run([str(python), *command], cwd=ROOT, check=False).returncode


def javascript() -> int:
    """Lint, types and tests of the scripts in javascript/, where node is; the packages come from package-lock.json."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        print("\nnode and npm are not installed, so the scripts in javascript/ are not checked.", flush=True)
        return 0
    lock, stamp = ROOT / "package-lock.json", ROOT / "node_modules" / ".loraclr-lock"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    if not stamp.is_file() or stamp.read_text() != digest:
        print("\n$ npm ci", flush=True)
        if subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=ROOT, check=False).returncode:
            print("npm could not install its packages, so the scripts in javascript/ are not checked.", flush=True)
            return 0
        stamp.write_text(digest)
    print("\n$ npm run check", flush=True)
    return subprocess.run([npm, "run", "--silent", "check"], cwd=ROOT, check=False).returncode


def with_gradio(version: int) -> Path:
    """The python of an environment with gradio 3.41 or 4.40, which takes from .venv what it lacks."""
    shared = site_packages(install(ROOT / "requirements" / "test.txt"))
    folder = ROOT / f".venv-gradio{version}"
    link = next(folder.rglob("zz_shared.pth"), None)
    if link is not None:
        link.unlink()  # so that pip sees the environment's own packages only
    python = install(ROOT / "requirements" / f"gradio{version}.txt", folder)
    (site_packages(python) / "zz_shared.pth").write_text(f"{shared}\n")
    return python


def browser(arguments: list[str]) -> int:
    """The browser tests under both versions of gradio."""
    tests = ["-m", "pytest", "-q", "-m", "browser", "-p", "no:cacheprovider", "tests/browser", *arguments]
    return max([run(with_gradio(version), tests) for version in (3, 4)])


def main() -> int:
    """Run the task named on the command line; further arguments go to its last command."""
    if len(sys.argv) < 2 or sys.argv[1] not in (*TASKS, "browser", *RECORDINGS):
        sys.exit(f"usage: python3 tools/do.py {{{'|'.join((*TASKS, 'browser', *RECORDINGS))}}} [arguments]")
    if sys.argv[1] == "browser":
        return browser(sys.argv[2:])
    if sys.argv[1] in RECORDINGS:
        return run(with_gradio(4), [f"tools/{sys.argv[1]}.py", *sys.argv[2:]])
    requirements, commands = TASKS[sys.argv[1]]
    install(ROOT / "requirements" / requirements)
    status = 0
    for number, command in enumerate(commands):
        extra = sys.argv[2:] if number == len(commands) - 1 else []
        status = run(PYTHON, [*command, *extra]) or status
    if sys.argv[1] == "test":
        status = javascript() or status
    return status


if __name__ == "__main__":
    sys.exit(main())
