"""One job at a time, in a thread of its own: the page may be closed and opened again while it runs."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lib_loraclr.app.application import Application, JobState
from lib_loraclr.core.errors import Cancelled, InputError, LoraclrError, out_of_memory
from lib_loraclr.model import Phase, Progress

TASK_ID = re.compile(r"task\([\w-]{1,60}\)")  # the WebUI's form, which its progress bar asks for
LOG = logging.getLogger("loraclr")
OUT_OF_MEMORY = "The memory was not enough, and nothing was written. Choose the preset Text, a smaller memory budget in the advanced settings, or fewer LoRAs."  # noqa: E501


@dataclass(frozen=True)
class Finished:
    """How a job ended: with a result, or with an error (a `Cancelled` among them)."""

    kind: str
    task_id: str
    result: Any = None
    error: LoraclrError | None = None


class Runner:
    """Starts jobs in the application and remembers the last one of each kind."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.finished: dict[str, Finished] = {}
        self._lock = threading.Lock()
        self._running: tuple[str, str, threading.Thread] | None = None

    @property
    def running(self) -> tuple[str, str] | None:
        """(kind, task id) of the job that waits or runs now."""
        with self._lock:
            return self._running[:2] if self._running else None

    def start(
        self,
        kind: str,
        task_id: str,
        title: str,
        body: Callable[[Progress], Any],
        phases: Sequence[tuple[Phase, float]] = (),
    ) -> None:
        """Begin `body` under the application's job. Raises InputError "busy" while another one runs."""
        if not TASK_ID.fullmatch(task_id):
            raise InputError("bad-task", "The page sent no valid task id; reload it.", key="task")

        def run() -> None:
            self._finish(self._run(kind, task_id, title, body, phases))

        thread = threading.Thread(target=run, name=f"loraclr {kind}", daemon=True)
        with self._lock:
            if self._running is not None:
                raise InputError("busy", "Something is running already; wait for it or cancel it first.", key="task")
            self._running = kind, task_id, thread
            self.finished.pop(kind, None)
        thread.start()

    def state(self, task_id: str) -> JobState:
        """Where a job stands; "waiting" from the first moment on."""
        state = self.application.progress(task_id)
        if state.state in ("unknown", "done") and self.running and self.running[1] == task_id:
            return JobState("waiting" if state.state == "unknown" else "running", state.phase, fraction=state.fraction)
        return state

    def cancel(self) -> bool:
        """Ask the running job to stop."""
        running = self.running
        return running is not None and self.application.cancel(running[1])

    def wait(self, timeout: float | None = None) -> None:
        """Until nothing runs (for tests and for the end of the program)."""
        with self._lock:
            thread = self._running[2] if self._running else None
        if thread is not None:
            thread.join(timeout)

    def _run(
        self,
        kind: str,
        task_id: str,
        title: str,
        body: Callable[[Progress], Any],
        phases: Sequence[tuple[Phase, float]],
    ) -> Finished:
        try:
            with self.application.job(title, task_id, phases) as progress:
                return Finished(kind, task_id, body(progress))
        except LoraclrError as error:
            return Finished(kind, task_id, error=error)
        except Exception as error:
            if out_of_memory(error):
                return Finished(kind, task_id, error=LoraclrError("out-of-memory", OUT_OF_MEMORY))
            LOG.exception("The job '%s' failed.", title)
            text = f"Something went wrong: {type(error).__name__}: {error}. The console has the details."
            return Finished(kind, task_id, error=LoraclrError("unexpected", text))

    def _finish(self, finished: Finished) -> None:
        with self._lock:
            self.finished[finished.kind] = finished
            self._running = None


def was_cancelled(finished: Finished) -> bool:
    """Whether the user ended it."""
    return isinstance(finished.error, Cancelled)
