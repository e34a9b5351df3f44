"""A merge as a job: the same for tab, API and command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lib_loraclr.app.application import Application
from lib_loraclr.app.cost import MergeCost, read_layers, signature
from lib_loraclr.app.jobs import Body, Job
from lib_loraclr.formats.output import check_job_output
from lib_loraclr.merging.config import config_of
from lib_loraclr.merging.options import MergeOptions
from lib_loraclr.merging.outcome import MergeOutcome
from lib_loraclr.merging.pipeline import merge
from lib_loraclr.model import Phase

KIND = "merge"


@dataclass(frozen=True)
class FinishedMerge:
    """The result of a merge's job; `report` (JSON data) and `report_page` (HTML) where one was asked for."""

    options: MergeOptions
    outcome: MergeOutcome
    report: Mapping[str, Any] | None = field(default=None, repr=False)
    report_page: str = field(default="", repr=False)


def start_merge(
    application: Application,
    options: MergeOptions,
    *,
    owner: str,
    job_id: object = None,
    most: int | None = None,
    report: bool = False,
    about: Any = None,
) -> Job:
    """Put a merge into the program's queue; with `report` its result has the report's content.

    Raises what can be told of the options before a file is read, and what `JobRegistry.start` raises.
    """
    check(options)
    expected = expected_phases(application, options)
    work = body(application, options, report)
    return application.jobs.start(
        KIND, title(options), work, job_id=job_id, owner=owner, most=most, expected=expected, about=about
    )


def run_merge(application: Application, options: MergeOptions, *, owner: str) -> FinishedMerge:
    """The same in this thread, without a copy of the report. Raises whatever ends the job."""
    check(options)
    expected = expected_phases(application, options)
    return application.jobs.run(KIND, title(options), body(application, options), owner=owner, expected=expected)


def check(options: MergeOptions) -> None:
    """Raise InputError where the options or the place of the output cannot work."""
    config_of(options)
    inputs = [choice.file for choice in options.lora]
    check_job_output(options.out, ".safetensors", overwrite=options.overwrite, inputs=inputs)


def title(options: MergeOptions) -> str:
    """What the job is called."""
    return f"Merging {len(options.lora)} LoRAs"


def body(application: Application, options: MergeOptions, report: bool = False) -> Body:
    """What the job does: statistics go with it where the program keeps none."""

    def work(job: Job) -> FinishedMerge:
        with TemporaryDirectory(prefix="loraclr-", ignore_cleanup_errors=True) as folder:
            here = Path(folder)
            kept = options.cache is not None or application.cache_folder() is not None
            used = replace(
                options,
                cache=options.cache if kept else here / "statistics",
                report=here if report and options.report is None else options.report,
            )
            outcome = merge(used, open_host=application.open_host, progress=job.progress)
            job.progress.end_phase()
            learn(application, used, job, kept)
            data, page = _report(outcome) if report else (None, "")
        application.catalogue.written(outcome.out)
        return FinishedMerge(options, outcome, data, page)

    return work


def expected_phases(application: Application, options: MergeOptions) -> list[tuple[Phase, float]]:
    """(phase, seconds) of the merge in order, as far as it is known before it begins."""
    config, model = config_of(options), application.model()
    application.pace.read(options.cache or application.cache_folder())
    cost = MergeCost.of(config, read_layers([choice.file for choice in options.lora]), model)
    cached = signature(config, model) in application.pace.seen
    return cost.seconds(application.pace, model, cached=cached)


def learn(application: Application, options: MergeOptions, job: Job, kept: bool) -> None:
    """How fast the phases were; with a cache that is `kept`, also that this merge is in it."""
    config, model, pace = config_of(options), application.model(), application.pace
    cost = MergeCost.of(config, read_layers([choice.file for choice in options.lora]), model)
    pace.learn_all(cost, model, job.progress.seconds)
    if kept:
        pace.seen.add(signature(config, model))
        pace.write(options.cache)


def _report(outcome: MergeOutcome) -> tuple[Mapping[str, Any] | None, str]:
    if not outcome.report:
        return None, ""
    data, page = (path.read_text(encoding="utf-8") for path in outcome.report)
    return json.loads(data), page
