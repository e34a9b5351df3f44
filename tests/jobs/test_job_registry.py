"""Jobs by their ids: order, progress, cancellation, and what is known of them from outside."""

from __future__ import annotations

import threading

import pytest

from lib_loraclr.app.jobs import REMEMBERED, Job, JobHook, JobProgress, JobRegistry
from lib_loraclr.core.errors import Cancelled, LoraclrError
from lib_loraclr.model import Phase

PHASES = [
    (Phase.READ, 1.0), (Phase.WATCH, 6.0), (Phase.SOLVE, 1.0), (Phase.WATCH, 6.0), (Phase.SOLVE, 1.0),
    (Phase.WRITE, 1.0),
]  # fmt: skip


def test_fraction_is_of_the_whole_job_and_jumps_over_phases_that_do_not_come() -> None:
    progress = JobProgress(PHASES)
    job = Job("a", "merge", "merge", progress=progress, state="running")
    assert progress.fraction() == 0.0
    progress.phase(Phase.READ, 1)
    progress.step()
    assert progress.fraction() == pytest.approx(1 / 16)
    progress.phase(Phase.WATCH, 4)
    for _ in range(3):
        progress.step()
    assert progress.fraction() == pytest.approx((1 + 6 * 3 / 4) / 16)
    progress.phase(Phase.SOLVE, 10, "round 1 of 1")
    assert progress.fraction() == pytest.approx(7 / 16)
    progress.phase(Phase.SOLVE, 2)  # the second capture was found in the cache
    progress.step("unet.conv_in")
    assert progress.fraction() == pytest.approx((8 + 0.5) / 10)
    state = job.snapshot()
    assert (state.state, state.phase, state.step, state.steps, state.text) == (
        "running", "Solving", 1, 2, "unet.conv_in"
    )  # fmt: skip
    assert state.seconds_left is not None
    assert state.seconds_left >= 0


def test_without_expected_phases_the_fraction_is_the_phase_s() -> None:
    progress = JobProgress()
    progress.phase(Phase.READ, 4)
    progress.step()
    assert progress.fraction() == 0.25
    for _ in range(9):  # a phase that runs over its announced length stays at its end
        progress.step()
    assert progress.fraction() == 1.0


def test_a_cancelled_job_stops_at_its_next_step_and_the_board_is_free_again() -> None:
    board = JobRegistry()
    with board.scope("first", "a") as progress:
        progress.phase(Phase.SOLVE, 3)
        progress.step()
        assert board.cancel("a")
        with pytest.raises(Cancelled):
            progress.step()
    assert (board.state("a").state, board.state("a").fraction) == ("done", pytest.approx(2 / 3))
    assert not board.cancel("a")
    with board.scope("second", "b") as progress:
        progress.step()


def test_the_host_s_own_interrupt_cancels_too() -> None:
    class Interrupted(JobHook):
        def stopped(self) -> bool:
            return stop.is_set()

    board, stop = JobRegistry(Interrupted()), threading.Event()
    with board.scope("merge", "a") as progress:
        progress.step()
        stop.set()
        with pytest.raises(Cancelled):
            progress.step()


def test_two_jobs_run_one_after_the_other_and_a_waiting_one_can_be_cancelled() -> None:
    board, order = JobRegistry(), list[str]()
    first_runs, go_on = threading.Event(), threading.Event()

    def first() -> None:
        with board.scope("first", "first"):
            first_runs.set()
            assert go_on.wait(20)
            order.append("first")

    def other(name: str) -> None:
        try:
            with board.scope(name, name):
                order.append(name)
        except Cancelled:
            order.append(f"{name} cancelled")

    threads = [threading.Thread(target=first)]
    threads[0].start()
    assert first_runs.wait(20)
    for name in ("second", "third"):
        threads.append(threading.Thread(target=other, args=(name,)))
        threads[-1].start()
    while "unknown" in (board.state("second").state, board.state("third").state):
        pass
    assert board.state("second").state == "waiting"
    assert board.cancel("third")
    threads[2].join(20)
    assert order == ["third cancelled"]
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert order == ["third cancelled", "first", "second"]


def test_one_id_cannot_be_used_twice_at_once_and_old_ones_are_forgotten() -> None:
    board = JobRegistry()
    with (
        board.scope("merge", "a"),
        pytest.raises(LoraclrError) as error,
        board.scope("merge", "a"),
    ):
        pytest.fail("the second click ran")
    assert error.value.code == "task-exists"
    for number in range(REMEMBERED + 2):
        with board.scope("merge", str(number)):
            pass
    assert board.state("a").state == "unknown"
    assert board.state(str(REMEMBERED + 1)).state == "done"


def test_the_programs_queue_is_entered_and_left_also_after_a_failure() -> None:
    queue = threading.Lock()

    class Queue(JobHook):
        def turn(self, job: Job) -> threading.Lock:
            return queue

    board = JobRegistry(Queue())

    def fail() -> None:
        with board.scope("merge", "a"):
            assert queue.locked()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not queue.locked()


def test_a_started_job_has_its_result_for_everybody_who_knows_its_id() -> None:
    jobs = JobRegistry()
    job = jobs.start("merge", "first", lambda job: job.progress.message("hello") or 7, job_id="task(a)", owner="api")
    assert job.wait(20)
    assert jobs.get("task(a)") is job
    assert (job.result, job.error, list(job.log), jobs.state("task(a)").fraction) == (7, None, ["hello"], 1.0)
    assert jobs.finished("merge") == jobs.finished("merge", owner="api") == [job]
    assert jobs.finished("merge", owner="tab") == jobs.active("merge") == []
    assert jobs.run("merge", "second", lambda job: job.title) == "second"


def test_an_owner_may_have_so_many_jobs_and_others_wait_in_the_same_queue() -> None:
    jobs, go_on = JobRegistry(), threading.Event()
    first = jobs.start("merge", "first", lambda job: go_on.wait(20), owner="tab", most=1)
    with pytest.raises(LoraclrError, match="running already") as error:
        jobs.start("preview", "second", lambda job: None, owner="tab", most=1)
    assert error.value.code == "queue-full"
    other = jobs.start("merge", "third", lambda job: first.state, owner="api", most=1)
    assert [job.title for job in jobs.active("merge")] == ["first", "third"]
    go_on.set()
    assert other.wait(20)
    assert other.result == "done"


def test_ctrl_c_ends_the_job_and_passes_through() -> None:
    def body(job: Job) -> None:
        raise KeyboardInterrupt

    jobs = JobRegistry()
    with pytest.raises(KeyboardInterrupt):
        jobs.run("merge", "merge", body)
    assert isinstance(jobs.finished("merge")[0].error, Cancelled)


def test_the_time_left_is_that_of_the_phases_to_come_at_the_pace_of_those_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("lib_loraclr.app.jobs.time.monotonic", lambda: now[0])
    progress = JobProgress([(Phase.READ, 1.0), (Phase.WATCH, 10.0), (Phase.SOLVE, 5.0), (Phase.LEARN, 100.0)])
    progress.phase(Phase.READ, 1)
    assert progress.seconds_left() is None
    now[0] = 1.0
    progress.step()
    progress.phase(Phase.WATCH, 4)
    for _ in range(4):
        now[0] += 5.0
        progress.step()
    progress.phase(Phase.SOLVE, 2)  # the model was half as fast as expected, reading as fast
    assert progress.seconds_left() == pytest.approx(5 + 200)
    now[0] += 1.0
    progress.step()
    assert progress.seconds_left() == pytest.approx(1 + 200)
    assert progress.seconds == [(Phase.READ, 1, 1.0), (Phase.WATCH, 4, 20.0)]


def test_where_nothing_was_expected_the_time_left_is_of_the_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("lib_loraclr.app.jobs.time.monotonic", lambda: now[0])
    progress = JobProgress()
    progress.phase(Phase.WATCH, 1)
    now[0] = 600.0
    progress.step()
    progress.phase(Phase.WATCH, 4)
    now[0] = 610.0
    progress.step()
    assert progress.seconds_left() == pytest.approx(30)
