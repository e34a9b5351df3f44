"""Merges that were asked for over HTTP: each waits its turn in a thread of its own; results are kept for a while."""

from __future__ import annotations

import logging
import re
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lib_loraclr.app.application import Application
from lib_loraclr.app.cost import expected_phases
from lib_loraclr.core.errors import Cancelled, InputError, LoraclrError, out_of_memory
from lib_loraclr.formats.output import check_job_output
from lib_loraclr.merging.config import config_of
from lib_loraclr.merging.options import MergeOptions
from lib_loraclr.merging.pipeline import merge
from lib_loraclr.model import Phase

WAITING = 16  # merges that may wait or run at a time
REMEMBERED = 64
TASK_ID = re.compile(r"task\([\w-]{1,60}\)")  # the WebUI's form, which its progress bar asks for
LOG = logging.getLogger("loraclr")


class Work:
    """The merges of one application."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self._lock = threading.Lock()
        self._results: OrderedDict[str, dict[str, Any] | LoraclrError | None] = OrderedDict()
        self._unwanted: set[str] = set()

    def start(self, options: MergeOptions, task_id: str | None = None) -> str:
        """Begin a merge and return its task id. Raises what is wrong with the options, "task-exists", "queue-full"."""
        plan = config_of(options)
        check_job_output(
            options.out, ".safetensors", overwrite=options.overwrite, inputs=[one.file for one in options.lora]
        )
        task = task_id if task_id is not None else f"task(loraclr-{uuid.uuid4().hex[:16]})"
        if not isinstance(task, str) or not TASK_ID.fullmatch(task):
            raise InputError("bad-option", "A task id looks like task(some-letters).", key="task")
        self._register(task)
        arguments = (task, options, expected_phases(plan))
        threading.Thread(target=self._run, args=arguments, name=f"loraclr {task}", daemon=True).start()
        return task

    def state(self, task: str) -> dict[str, Any]:
        """Where a task stands, with `result` or `error` once it is done. Raises InputError "unknown-task"."""
        state = asdict(self.application.progress(task))
        with self._lock:
            if task not in self._results and state["state"] == "unknown":
                raise InputError("unknown-task", "There is no such task; finished ones are forgotten after a while.")
            known, outcome = task in self._results, self._results.get(task)
        if known:  # the application hears of a task a moment after we do, and is done a moment before
            early = "waiting" if state["state"] in ("unknown", "waiting") else "running"
            state["state"] = early if outcome is None else "done"
        return {"task": task, **state, "outcome": outcome}

    def cancel(self, task: str) -> bool:
        """Ask a task to stop; False when it is done already. Raises InputError "unknown-task"."""
        done = self.state(task)["state"] == "done"
        if not done and not self.application.cancel(task):
            self._unwanted.add(task)  # its thread has not reached the application yet
        return not done

    def _register(self, task: str) -> None:
        with self._lock:
            if self._results.get(task, {}) is None:
                raise LoraclrError("task-exists", "This task is waiting or running already.", key="task")
            if sum(result is None for result in self._results.values()) >= WAITING:
                raise LoraclrError("queue-full", f"{WAITING} merges are waiting already; try again later.")
            self._results.pop(task, None)
            self._results[task] = None
            finished = [key for key, result in self._results.items() if result is not None]
            for key in finished[: max(0, len(finished) - REMEMBERED)]:
                del self._results[key]

    def _run(self, task: str, options: MergeOptions, phases: list[tuple[Phase, float]]) -> None:
        outcome: dict[str, Any] | LoraclrError
        try:
            with self.application.job("Merge", task, phases) as progress, _cache(options) as cached:
                if task in self._unwanted:
                    raise Cancelled
                outcome = merge(cached, open_host=self.application.open_host, progress=progress).as_json()
            self.application.catalogue.written(options.out)
        except LoraclrError as error:
            outcome = error
        except Exception as error:
            outcome = _unexpected(error)
        with self._lock:
            self._results[task] = outcome
            self._unwanted.discard(task)


@contextmanager
def _cache(options: MergeOptions) -> Iterator[MergeOptions]:
    """Statistics in a folder that goes with the job where the application keeps none."""
    if options.cache is not None:
        yield options
        return
    with TemporaryDirectory(prefix="loraclr-", ignore_cleanup_errors=True) as folder:
        yield replace(options, cache=Path(folder))


def _unexpected(error: Exception) -> LoraclrError:
    if out_of_memory(error):
        return LoraclrError("out-of-memory", "The memory was not enough, and nothing was written.")
    LOG.exception("A merge that was asked for over HTTP failed.")
    return LoraclrError("unexpected", f"Something went wrong ({type(error).__name__}); the console has the details.")
