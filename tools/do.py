"""Set up a private environment in .venv and run one task in it: `python3 tools/do.py demo` or `… test`.

Standard library only, so that a fresh machine with Python 3.10 and pip is enough.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
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


def install(requirements: Path) -> None:
    """Create .venv if needed and install `requirements` unless this very list is already there."""
    if sys.version_info < (3, 10):  # noqa: UP036 (this file runs before anything has checked)
        sys.exit("Python 3.10 or newer is needed.")
    if not PYTHON.exists():
        # Debian splits ensurepip off, so the environment is made without pip and filled by the pip outside.
        venv.create(VENV, with_pip=False, clear=VENV.exists())
    text = "".join(path.read_text() for path in sorted(requirements.parent.glob("*.txt")))
    stamp = VENV / f"{requirements.stem}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if stamp.exists():
        return
    print(f"Installing {requirements.relative_to(ROOT)} into .venv (once, some minutes) …", flush=True)
    pip = [sys.executable, "-m", "pip", "--python", str(PYTHON), "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*pip, "-r", str(requirements)], check=False).returncode:
        sys.exit("The installation failed; the lines above say why. Nothing outside .venv was touched.")
    stamp.touch()


def main() -> int:
    """Run the task named on the command line; further arguments go to its last command."""
    if len(sys.argv) < 2 or sys.argv[1] not in TASKS:
        sys.exit(f"usage: python3 tools/do.py {{{'|'.join(TASKS)}}} [arguments]")
    requirements, commands = TASKS[sys.argv[1]]
    install(ROOT / "requirements" / requirements)
    status = 0
    for number, command in enumerate(commands):
        extra = sys.argv[2:] if number == len(commands) - 1 else []
        print("\n$ python", *command, *extra, flush=True)
        status = subprocess.run([str(PYTHON), *command, *extra], cwd=ROOT, check=False).returncode or status
    return status


if __name__ == "__main__":
    sys.exit(main())
