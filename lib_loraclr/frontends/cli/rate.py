"""`rate`: the blind rating page of an evaluation, or what was rated so far."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_loraclr.core.errors import InputError
from lib_loraclr.evaluation.ratings import Mean, read, summary
from lib_loraclr.frontends.rating import RatingPage, mean_text


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add `rate` to the sub-parsers and return its parser."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "rate",
        help="let people rate the pictures of an evaluation, blind",
        description="Serve a page on this machine that shows reference pictures and one picture of a method that is "
        "not named, to be rated from 1 to 5 for identity and quality. Ratings go to FOLDER/ratings.csv at once. Needs "
        "gradio (3.41 or 4.40). Ctrl-C ends it.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what `evaluate` wrote")
    parser.add_argument("--port", type=int, default=7863, metavar="N", help="default 7863")
    parser.add_argument("--results", action="store_true", help="print the means with 95 %% intervals and stop")
    parser.set_defaults(run=run)
    return parser


@dataclass(frozen=True)
class Answer:
    """The means over all ratings so far: variant -> identity and quality."""

    means: Mapping[str, Mapping[str, Mean]]

    def as_json(self) -> dict[str, Any]:
        """Mean, half width of its 95 % interval (null of a single rating) and number of ratings."""
        return {
            "ok": True,
            "variants": {
                variant: {
                    name: {"mean": mean.value, "half_interval": mean.half, "ratings": mean.count}
                    for name, mean in means.items()
                }
                for variant, means in self.means.items()
            },
        }

    def as_text(self) -> str:
        """One variant a line, the best identity first."""
        return "\n".join(
            f"{variant}: identity {mean_text(means['identity'])}, quality {mean_text(means['quality'])}"
            for variant, means in self.means.items()
        )


def run(parsed: argparse.Namespace) -> Answer:
    """Serve the page until Ctrl-C, unless only the results are wanted."""
    if not parsed.results:
        page = RatingPage(parsed.folder)
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        try:
            blocks = page.build()
        except ImportError as error:
            message = (
                f"The page needs gradio, which cannot be loaded ({error}); `pip install gradio==4.40.0` brings it."
            )
            raise InputError("gradio-missing", message) from error
        blocks.queue().launch(server_name="127.0.0.1", server_port=parsed.port, show_api=False, inbrowser=False)
    return Answer(summary(read(parsed.folder)))
