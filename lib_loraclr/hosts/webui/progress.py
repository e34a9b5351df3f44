"""A job in the WebUI's queue and progress bar: `modules.progress` by task id, `shared.state` for everything else."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from modules import call_queue, shared
from modules import progress as bar

from lib_loraclr.app.jobs import TaskBoard, TaskProgress
from lib_loraclr.model import Phase

RESOLUTION = 1000  # steps of the WebUI's bar; ours is a fraction


class WebuiProgress(TaskProgress):
    """Shows every step in the WebUI's bar, and hears its Interrupt, Skip and Stop buttons."""

    def phase(self, phase: Phase, steps: int, detail: str = "") -> None:
        """A phase begins."""
        super().phase(phase, steps, detail)
        self._show()

    def step(self, text: str = "") -> None:
        """One step is done. Raises Cancelled."""
        try:
            super().step(text)
        finally:
            self._show()

    def message(self, text: str) -> None:
        """One line for the log and under the bar."""
        super().message(text)
        self._show()

    def _show(self) -> None:
        shared.state.job_count, shared.state.job_no = 1, 0
        shared.state.sampling_steps = RESOLUTION
        shared.state.sampling_step = round(RESOLUTION * self.fraction())
        where = f"{self.name} {self.done}/{self.steps}" if self.steps > 1 else self.name
        shared.state.textinfo = f"{where}: {self.text}" if self.text else where


def interrupted() -> bool:
    """Whether the user pressed Interrupt, Skip or Stop since the job began."""
    state = shared.state
    return bool(state.interrupted or state.skipped or getattr(state, "stopping_generation", False))


@contextmanager
def webui_job(board: TaskBoard, task_id: str, progress: TaskProgress) -> Generator[TaskProgress]:
    """Scope of one job in the WebUI's queue: nothing is generated meanwhile, and the bar of `task_id` moves."""
    bar.add_task_to_queue(task_id)
    try:
        with board.job(task_id, progress, lambda: _turn(task_id)):
            yield progress
    finally:
        bar.pending_tasks.pop(task_id, None)


@contextmanager
def _turn(task_id: str) -> Generator[None]:
    state = shared.state
    with call_queue.queue_lock:
        state.begin(job=task_id)
        bar.start_task(task_id)
        try:
            yield
        finally:
            bar.finish_task(task_id)
            state.end()
            state.skipped = state.interrupted = False
            if hasattr(state, "stopping_generation"):
                state.stopping_generation = False
