"""The jobs of a program: one runs at a time, the others wait; whoever knows a job's id may ask for it and end it.

A merge that was started in the tab, over HTTP or on the command line is the same `Job` in the same `JobRegistry`.
"""

from __future__ import annotations

import logging
import re
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from lib_loraclr.core.errors import Cancelled, InputError, LoraclrError, out_of_memory
from lib_loraclr.model import Phase

REMEMBERED = 64  # finished jobs that can still be asked for
TELLING = 0.1  # share of a phase after which its own speed tells how long the rest of it takes
WAIT_SECONDS = 0.1  # how often a waiting job looks whether it was cancelled
JOB_ID = re.compile(r"task\([\w-]{1,60}\)")  # the WebUI's form, which its progress bar asks for
UNEXPECTED = "unexpected"
LOG = logging.getLogger("loraclr")
OUT_OF_MEMORY = "The memory was not enough, and nothing was written. Choose the preset Text, a smaller memory budget in the advanced settings, or fewer LoRAs."  # noqa: E501


@dataclass(frozen=True)
class JobState:
    """`state` is "unknown", "waiting", "running" or "done"; `fraction` is of the whole job, 0 to 1."""

    state: str
    phase: str = ""
    step: int = 0
    steps: int = 0
    fraction: float = 0.0
    seconds_left: float | None = None
    text: str = ""


class JobHook:
    """What a program does around its jobs; this one does nothing. A WebUI has its queue and its progress bar."""

    def add(self, job: Job) -> None:
        """The job is there, and waits."""

    def remove(self, job: Job) -> None:
        """The job is done."""

    def turn(self, job: Job) -> AbstractContextManager[object]:
        """Scope of a job that runs: entered when the jobs before it are done, in the thread of the job."""
        return nullcontext()

    def show(self, job: Job) -> None:
        """After every phase, step and message of the job."""

    def defect(self, job: Job, error: BaseException) -> None:
        """An error that nobody foresaw ended the job: its trace is what a bug report needs."""
        LOG.error("The job '%s' failed.", job.title, exc_info=error)

    def stopped(self) -> bool:
        """Whether the user pressed a button of the program that ends what runs."""
        return False


class JobProgress:
    """The `Progress` of a job: where it stands among the phases that were expected, and how long the rest takes.

    `expected`: phases in order with the seconds that each is expected to take. A phase that does not come (found in a
    cache) is no part of the whole any more. `on_change` is called after everything that happens; `check`, after every
    step, raises Cancelled where somebody asked to stop.
    """

    def __init__(
        self,
        expected: Sequence[tuple[Phase, float]] = (),
        on_change: Callable[[], object] = lambda: None,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        self.expected, self.on_change, self.check = list(expected), on_change, check
        self.phase_now: Phase | None = None
        self.name, self.text, self.number, self.steps, self.done = "", "", 0, 0, 0
        self.log: list[str] = []
        self.seconds: list[tuple[Phase, int, float]] = []  # (phase, steps, seconds) of every phase that is over
        self._position, self._skipped = -1, 0.0
        self._took = {True: (0.0, 0.0), False: (0.0, 0.0)}  # seconds and expected seconds, of phases with the model
        self._phase_started = time.monotonic()

    def start_clock(self) -> None:
        """The time before this was waiting."""
        self._phase_started = time.monotonic()

    def phase(self, phase: Phase, steps: int, detail: str = "") -> None:
        """A phase of `steps` steps begins; what was expected before it does not come any more."""
        self.end_phase()
        self.phase_now, self.name, self.text = phase, phase.words(detail), ""
        self.number += 1
        self.steps, self.done = max(1, steps), 0
        for position in range(self._position + 1, len(self.expected)):
            if self.expected[position][0] is phase:
                self._skipped += sum(weight for _, weight in self.expected[self._position + 1 : position])
                self._position = position
                break
        self.on_change()

    def step(self, text: str = "") -> None:
        """One step is done. Raises Cancelled."""
        self.done, self.text = min(self.done + 1, self.steps), text or self.text
        self.on_change()
        self.check()

    def message(self, text: str) -> None:
        """One line for the log, which is also the text to show."""
        self.text = text
        self.log.append(text)
        self.on_change()

    def end_phase(self) -> None:
        """Note how long the phase took, if all of its steps were made."""
        now = time.monotonic()
        if self.phase_now is not None and self.done == self.steps:
            elapsed = now - self._phase_started
            self.seconds.append((self.phase_now, self.steps, elapsed))
            if self._position >= 0 and self.expected[self._position][0] is self.phase_now:
                took, expected = self._took[self.phase_now.is_cached]
                weight = self.expected[self._position][1]
                self._took[self.phase_now.is_cached] = took + elapsed, expected + weight
        self._phase_started = now

    def fraction(self) -> float:
        """Share of the whole job that is done, or of the phase where nothing is known about the others."""
        share = self.done / self.steps if self.steps else 0.0
        total = sum(weight for _, weight in self.expected) - self._skipped
        if not total:
            return share
        if self._position < 0:
            return 0.0
        before = sum(weight for _, weight in self.expected[: self._position]) - self._skipped
        return (before + share * self.expected[self._position][1]) / total

    def seconds_left(self) -> float | None:
        """What is expected of the phases to come, by how much longer or shorter those so far took; None at first.

        Phases that ask the model are compared with such phases, others with others.
        """
        fraction, now = self.fraction(), time.monotonic()
        if fraction < 0.02:
            return None
        if self._position < 0:
            return (now - self._phase_started) * (1 / fraction - 1)
        share, (phase, weight) = self.done / self.steps, self.expected[self._position]
        if share >= TELLING:
            left = (now - self._phase_started) * (1 / share - 1)
        else:
            left = weight * (1 - share) * self._pace(phase)
        return left + sum(weight * self._pace(phase) for phase, weight in self.expected[self._position + 1 :])

    def _pace(self, phase: Phase) -> float:
        """Seconds that phases of this kind took so far, by those that were expected."""
        took, expected = self._took[phase.is_cached]
        return took / expected if expected > 0 else 1.0


@dataclass(eq=False)
class Job:
    """One piece of work: `kind` ("merge", "preview", ...) and `owner` ("tab", "api", "cli") say whose it is.

    `state` goes from "waiting" over "running" to "done"; then there is a `result` or an `error`, and `ended` is set.
    `about` is what its owner keeps with it.
    """

    id: str
    kind: str
    title: str
    owner: str = ""
    progress: JobProgress = field(default_factory=JobProgress)
    state: str = "waiting"
    result: Any = None
    error: LoraclrError | None = None
    about: Any = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def log(self) -> Sequence[str]:
        """The messages so far."""
        return self.progress.log

    def snapshot(self) -> JobState:
        """Where the job stands."""
        at = self.progress
        complete = self.state == "done" and self.error is None and not self.cancelled.is_set()
        fraction = 1.0 if complete else at.fraction()
        left = at.seconds_left() if self.state == "running" else None
        return JobState(self.state, at.name, at.done, at.steps, fraction, left, at.text)

    def wait(self, timeout: float | None = None) -> bool:
        """Until it is done; whether it is."""
        return self.ended.wait(timeout)


Body = Callable[[Job], Any]


class JobRegistry:
    """Runs one job at a time and remembers the last ones. All methods may be called from any thread."""

    def __init__(self, hook: JobHook | None = None) -> None:
        self.hook = hook or JobHook()
        self._turn = threading.Lock()
        self._guard = threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    def start(
        self,
        kind: str,
        title: str,
        body: Body,
        *,
        job_id: object = None,
        owner: str = "",
        most: int | None = None,
        expected: Sequence[tuple[Phase, float]] = (),
        about: Any = None,
    ) -> Job:
        """Begin `body` in a thread of its own: the page may be closed and opened again while it runs.

        Raises InputError "bad-option" for an id that is not of the WebUI's form, LoraclrError "task-exists" for one
        that waits or runs, and "queue-full" where `most` jobs of this owner do already.
        """
        identity = new_id() if job_id is None else job_id
        if not isinstance(identity, str) or not JOB_ID.fullmatch(identity):
            raise InputError("bad-option", "A job's id looks like task(some-letters).", key="task")
        job = self._register(Job(identity, kind, title, owner, about=about), expected, most)

        def work() -> None:
            with self._ending(job), self._scope(job):
                job.result = body(job)

        threading.Thread(target=work, name=f"loraclr {kind}", daemon=True).start()
        return job

    def run(
        self, kind: str, title: str, body: Body, *, owner: str = "", expected: Sequence[tuple[Phase, float]] = ()
    ) -> Any:
        """The result of `body`, in this thread. Raises its error, worded."""
        job = self._register(Job(new_id(), kind, title, owner), expected)
        with self._ending(job), self._scope(job):
            job.result = body(job)
        if job.error is not None:
            raise job.error
        return job.result

    @contextmanager
    def scope(
        self,
        title: str,
        job_id: str | None = None,
        expected: Sequence[tuple[Phase, float]] = (),
    ) -> Generator[JobProgress]:
        """A job that is the block in it. Raises LoraclrError "task-exists" and Cancelled; errors pass through."""
        job = self._register(Job(new_id() if job_id is None else job_id, "", title), expected)
        try:
            with self._scope(job):
                yield job.progress
        except BaseException as error:
            self._fail(job, error)
            raise
        finally:
            self._end(job)

    def get(self, job_id: str) -> Job | None:
        """The job; None for an id that never was or was forgotten."""
        with self._guard:
            return self._jobs.get(job_id)

    def state(self, job_id: str) -> JobState:
        """Where a job stands; state "unknown" for an id that never was or was forgotten."""
        job = self.get(job_id)
        return JobState("unknown") if job is None else job.snapshot()

    def cancel(self, job_id: str) -> bool:
        """Ask a waiting or running job to stop; it ends at its next step. False when there is no such job."""
        job = self.get(job_id)
        if job is None or job.state == "done":
            return False
        job.cancelled.set()
        return True

    def active(self, *kinds: str, owner: str | None = None) -> list[Job]:
        """Jobs that wait or run, the oldest first."""
        return [job for job in self._of(kinds, owner) if job.state != "done"]

    def finished(self, *kinds: str, owner: str | None = None) -> list[Job]:
        """Jobs that are done, in the order in which they were begun."""
        return [job for job in self._of(kinds, owner) if job.state == "done"]

    def _of(self, kinds: Sequence[str], owner: str | None) -> list[Job]:
        with self._guard:
            return [job for job in self._jobs.values() if job.kind in kinds and owner in (None, job.owner)]

    def _register(self, job: Job, expected: Sequence[tuple[Phase, float]], most: int | None = None) -> Job:
        job.progress = JobProgress(expected, lambda: self._show(job), lambda: _check(job, self.hook))
        with self._guard:
            known = self._jobs.get(job.id)
            if known is not None and known.state != "done":
                raise LoraclrError("task-exists", "This job is waiting or running already.", key="task")
            active = sum(one.state != "done" and one.owner == job.owner for one in self._jobs.values())
            if most is not None and active >= most:
                raise LoraclrError("queue-full", _too_many(active), key="task")
            self._jobs.pop(job.id, None)
            self._jobs[job.id] = job
            finished = [key for key, one in self._jobs.items() if one.state == "done"]
            for key in finished[: max(0, len(finished) - REMEMBERED)]:
                del self._jobs[key]
        self.hook.add(job)
        return job

    def _show(self, job: Job) -> None:
        if job.state == "running":
            self.hook.show(job)

    @contextmanager
    def _scope(self, job: Job) -> Generator[None]:
        """The job's turn: after the jobs before it, in the program's own queue."""
        while not self._turn.acquire(timeout=WAIT_SECONDS):
            _check(job)
        try:
            with self.hook.turn(job):
                _check(job, self.hook)
                job.state = "running"
                job.progress.start_clock()
                yield
                job.progress.end_phase()
        finally:
            self._turn.release()

    @contextmanager
    def _ending(self, job: Job) -> Generator[None]:
        """Whatever ends the job becomes its error."""
        try:
            yield
        except Exception as error:
            self._fail(job, error)
        except BaseException as error:  # Ctrl-C on the command line
            self._fail(job, error)
            raise
        finally:
            self._end(job)

    def _fail(self, job: Job, error: BaseException) -> None:
        job.error = worded(error)
        if job.error.code == UNEXPECTED:
            self.hook.defect(job, error)

    def _end(self, job: Job) -> None:
        job.state = "done"
        self.hook.remove(job)
        job.ended.set()


def new_id() -> str:
    """An id that no job has."""
    return f"task(loraclr-{uuid.uuid4().hex[:16]})"


def worded(error: BaseException) -> LoraclrError:
    """What ended a job as a sentence; `UNEXPECTED` is a defect of ours or of a library."""
    if isinstance(error, LoraclrError):
        return error
    if out_of_memory(error):
        return LoraclrError("out-of-memory", OUT_OF_MEMORY)
    if isinstance(error, KeyboardInterrupt):
        return Cancelled()
    text = f"Something went wrong: {type(error).__name__}: {error}. The console has the details."
    return LoraclrError(UNEXPECTED, text)


def _check(job: Job, hook: JobHook | None = None) -> None:
    if job.cancelled.is_set() or (hook is not None and hook.stopped()):
        job.cancelled.set()
        raise Cancelled


def _too_many(active: int) -> str:
    if active == 1:
        return "Something is running already; wait for it or cancel it first."
    return f"{active} jobs are waiting already; try again later."
