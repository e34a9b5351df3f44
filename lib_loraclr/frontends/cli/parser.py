"""The grammar: global parts shared by every command, and one sub-parser per command."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from lib_loraclr.core.errors import InputError
from lib_loraclr.frontends.cli import evaluate, generate, inspect, merge, overlap, rate, tab
from lib_loraclr.version import __version__


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ours, so that `--json` gets an object for them too."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of printing and leaving."""
        raise InputError("bad-arguments", f"{message[:1].upper()}{message[1:]} (see `{self.prog} --help`).")


def build_parser() -> Parser:
    """The parser of `loraclr`, which a checkout that is not installed starts as `python -m lib_loraclr`."""
    parser = Parser(
        prog="loraclr" if Path(sys.argv[0]).stem == "loraclr" else "python -m lib_loraclr",
        description="Merge several LoRAs into one that keeps each of them.",
        epilog="Exit status: 0 done, 2 wrong input, 1 failure, 130 cancelled with Ctrl-C (nothing is written).",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    for module in (merge, inspect, overlap, generate, evaluate, rate, tab):
        command = module.add_parser(commands)
        command.add_argument("--json", action="store_true", help="the last line on standard output is one JSON object")
    return parser
