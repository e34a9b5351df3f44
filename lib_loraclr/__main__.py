"""`python -m lib_loraclr`: the command line."""

from __future__ import annotations

import sys


def run() -> int:
    """Start the command line; Ctrl-C while the libraries are still loading ends as quietly as later."""
    try:
        from lib_loraclr.frontends.cli import main

        return main()
    except KeyboardInterrupt:
        sys.stderr.write("Cancelled; nothing was written.\n")
        return 130


if __name__ == "__main__":
    sys.exit(run())
