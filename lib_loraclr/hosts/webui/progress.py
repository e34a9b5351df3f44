"""Jobs in the WebUI's queue and progress bar: `modules.progress` by job id, `shared.state` for everything else."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from modules import call_queue, shared
from modules import progress as bar

from lib_loraclr.app.jobs import Job, JobHook

RESOLUTION = 1000  # steps of the WebUI's bar; ours is a fraction


class WebuiHook(JobHook):
    """While a job runs nothing is generated, the bar of its id moves, and Interrupt, Skip and Stop end it."""

    def add(self, job: Job) -> None:
        """The WebUI knows the job from now on."""
        bar.add_task_to_queue(job.id)

    def remove(self, job: Job) -> None:
        """Also of a job that was cancelled while it waited."""
        bar.pending_tasks.pop(job.id, None)

    @contextmanager
    def turn(self, job: Job) -> Generator[None]:
        """Scope in the WebUI's own queue."""
        state = shared.state
        with call_queue.queue_lock:
            state.begin(job=job.id)
            bar.start_task(job.id)
            try:
                yield
            finally:
                bar.finish_task(job.id)
                state.end()
                state.skipped = state.interrupted = False
                if hasattr(state, "stopping_generation"):
                    state.stopping_generation = False

    def show(self, job: Job) -> None:
        """Move the bar, and say under it where the job is."""
        progress = job.progress
        shared.state.job_count, shared.state.job_no = 1, 0
        shared.state.sampling_steps = RESOLUTION
        shared.state.sampling_step = round(RESOLUTION * progress.fraction())
        where = f"{progress.name} {progress.done}/{progress.steps}" if progress.steps > 1 else progress.name
        shared.state.textinfo = f"{where}: {progress.text}" if progress.text else where

    def stopped(self) -> bool:
        """Whether the user pressed Interrupt, Skip or Stop since the job began."""
        state = shared.state
        return bool(state.interrupted or state.skipped or getattr(state, "stopping_generation", False))
