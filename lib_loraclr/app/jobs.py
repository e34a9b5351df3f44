"""Jobs by task id: one at a time, each with a state that anybody may ask for and a flag that ends it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from lib_loraclr.app.application import JobState
from lib_loraclr.core.errors import Cancelled, LoraclrError
from lib_loraclr.model import Phase

REMEMBERED = 64  # finished tasks whose state can still be asked for
WAIT_SECONDS = 0.1  # how often a waiting job looks whether it was cancelled

Phases = Sequence[tuple[Phase, float]]
"""Expected phases of a job in order, each with a relative duration (`app.cost`)."""


class TaskProgress:
    """The `Progress` of one job. `stopped` is asked at every step, beside the task's own flag."""

    def __init__(self, title: str, expected: Phases = (), stopped: Callable[[], bool] = lambda: False) -> None:
        self.title, self.expected, self.stopped = title, tuple(expected), stopped
        self.state, self.name, self.text = "waiting", "", ""
        self.steps, self.done = 0, 0
        self.cancelled = threading.Event()
        self.finished = False  # to its end: neither cancelled nor failed
        self.log: list[str] = []
        self._position, self._skipped = -1, 0.0
        self._started = time.monotonic()

    def begin(self) -> None:
        """It is the job's turn. Raises Cancelled when it was cancelled while it waited."""
        self.check()
        self.state, self._started = "running", time.monotonic()

    def phase(self, phase: Phase, steps: int, detail: str = "") -> None:
        """A phase of `steps` steps begins; what was expected before it does not come any more."""
        self.name, self.steps, self.done, self.text = phase.words(detail), max(1, steps), 0, ""
        for position in range(self._position + 1, len(self.expected)):
            if self.expected[position][0] is phase:
                self._skipped += sum(weight for _, weight in self.expected[self._position + 1 : position])
                self._position = position
                break

    def step(self, text: str = "") -> None:
        """One step is done. Raises Cancelled."""
        self.done, self.text = min(self.done + 1, self.steps), text or self.text
        self.check()

    def message(self, text: str) -> None:
        """One line for the log, which is also the text to show."""
        self.text = text
        self.log.append(text)

    def check(self) -> None:
        """Raise Cancelled when somebody asked to stop."""
        if self.cancelled.is_set() or self.stopped():
            self.cancelled.set()
            raise Cancelled

    def snapshot(self) -> JobState:
        """Where the job stands."""
        fraction = 1.0 if self.finished else self.fraction()
        left = None
        if self.state == "running" and fraction >= 0.02:
            left = (time.monotonic() - self._started) * (1 / fraction - 1)
        return JobState(self.state, self.name, self.done, self.steps, fraction, left, self.text)

    def fraction(self) -> float:
        """Share of the whole job that is done, or of the phase where nothing is known about the others.

        Phases that were jumped over (found in a cache) are no part of it: with them the rest would seem fast.
        """
        share = self.done / self.steps if self.steps else 0.0
        total = sum(weight for _, weight in self.expected) - self._skipped
        if not total:
            return share
        if self._position < 0:
            return 0.0
        before = sum(weight for _, weight in self.expected[: self._position]) - self._skipped
        return (before + share * self.expected[self._position][1]) / total


class TaskBoard:
    """Runs one job at a time and remembers the last ones. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._guard = threading.Lock()
        self._tasks: OrderedDict[str, TaskProgress] = OrderedDict()

    @contextmanager
    def job(
        self,
        task_id: str,
        progress: TaskProgress,
        queue: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> Generator[TaskProgress]:
        """Scope of one job: waits for the jobs before it, then for the program's own `queue`.

        Raises LoraclrError "task-exists" for an id that waits or runs already, and Cancelled.
        """
        self._register(task_id, progress)
        try:
            while not self._turn.acquire(timeout=WAIT_SECONDS):
                progress.check()
            try:
                with queue():
                    progress.begin()
                    yield progress
                    progress.finished = not progress.cancelled.is_set()
            finally:
                self._turn.release()
        finally:
            progress.state = "done"

    def cancel(self, task_id: str) -> bool:
        """Ask a waiting or running job to stop."""
        with self._guard:
            progress = self._tasks.get(task_id)
        if progress is None or progress.state == "done":
            return False
        progress.cancelled.set()
        return True

    def progress(self, task_id: str) -> JobState:
        """State "unknown" for an id that never was or was forgotten."""
        with self._guard:
            progress = self._tasks.get(task_id)
        return JobState("unknown") if progress is None else progress.snapshot()

    def _register(self, task_id: str, progress: TaskProgress) -> None:
        with self._guard:
            known = self._tasks.get(task_id)
            if known is not None and known.state != "done":
                raise LoraclrError("task-exists", "This job is waiting or running already.", key=task_id)
            self._tasks.pop(task_id, None)
            self._tasks[task_id] = progress
            finished = [key for key, task in self._tasks.items() if task.state == "done"]
            for key in finished[: max(0, len(finished) - REMEMBERED)]:
                del self._tasks[key]
