"""The command line, a thin face over `jobs`: one file per command. Exit status: 0, 1 failure, 2 wrong input, 130."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence

from lib_loraclr.app.jobs import UNEXPECTED, worded
from lib_loraclr.core.errors import Cancelled, LoraclrError
from lib_loraclr.frontends.cli.parser import build_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status. With `--json` the last line on standard output is one object."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    if not arguments:
        build_parser().print_help(sys.stderr)
        return 2
    try:
        parsed = build_parser().parse_args(arguments)
        answer = parsed.run(parsed)
        if as_json:
            _print_json(answer.as_json())
        else:
            sys.stdout.write(answer.as_text() + "\n")
        return int(getattr(answer, "exit_status", 0))
    except KeyboardInterrupt:
        return _fail(Cancelled(), as_json)
    except LoraclrError as error:
        return _fail(error, as_json)
    except Exception as error:
        sentence = worded(error)
        if sentence.code == UNEXPECTED:
            traceback.print_exc(file=sys.stderr)
        return _fail(sentence, as_json)


def _fail(error: LoraclrError, as_json: bool) -> int:
    if as_json:
        _print_json({"ok": False, "error": error.as_dict()})
    where = "".join(f"\n  {name}: {value}" for name, value in (("file", error.file), ("key", error.key)) if value)
    sys.stderr.write(f"{error.message}{where}\n")
    return error.exit_status


def _print_json(data: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(data, ensure_ascii=True, allow_nan=False) + "\n")
    sys.stdout.flush()
