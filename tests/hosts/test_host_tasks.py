"""Jobs by task id: order, progress, cancellation, and what is known of them from outside."""

from __future__ import annotations

import threading

import pytest

from lib_loraclr.app.jobs import REMEMBERED, TaskBoard, TaskProgress
from lib_loraclr.core.errors import Cancelled, LoraclrError
from lib_loraclr.model import Phase

PHASES = [
    (Phase.READ, 1.0), (Phase.WATCH, 6.0), (Phase.SOLVE, 1.0), (Phase.WATCH, 6.0), (Phase.SOLVE, 1.0),
    (Phase.WRITE, 1.0),
]  # fmt: skip


def test_fraction_is_of_the_whole_job_and_jumps_over_phases_that_do_not_come() -> None:
    progress = TaskProgress("merge", PHASES)
    progress.begin()
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
    state = progress.snapshot()
    assert (state.state, state.phase, state.step, state.steps, state.text) == (
        "running", "Solving", 1, 2, "unet.conv_in"
    )  # fmt: skip
    assert state.seconds_left is not None
    assert state.seconds_left >= 0


def test_without_expected_phases_the_fraction_is_the_phase_s() -> None:
    progress = TaskProgress("overlap")
    progress.phase(Phase.READ, 4)
    progress.step()
    assert progress.fraction() == 0.25
    for _ in range(9):  # a phase that runs over its announced length stays at its end
        progress.step()
    assert progress.fraction() == 1.0


def test_a_cancelled_job_stops_at_its_next_step_and_the_board_is_free_again() -> None:
    board = TaskBoard()
    with board.job("a", TaskProgress("first")) as progress:
        progress.phase(Phase.SOLVE, 3)
        progress.step()
        assert board.cancel("a")
        with pytest.raises(Cancelled):
            progress.step()
    assert (board.progress("a").state, board.progress("a").fraction) == ("done", pytest.approx(2 / 3))
    assert not board.cancel("a")
    with board.job("b", TaskProgress("second")) as progress:
        progress.step()


def test_the_host_s_own_interrupt_cancels_too() -> None:
    board, stop = TaskBoard(), threading.Event()
    with board.job("a", TaskProgress("merge", stopped=stop.is_set)) as progress:
        progress.step()
        stop.set()
        with pytest.raises(Cancelled):
            progress.step()


def test_two_jobs_run_one_after_the_other_and_a_waiting_one_can_be_cancelled() -> None:
    board, order = TaskBoard(), list[str]()
    first_runs, go_on = threading.Event(), threading.Event()

    def first() -> None:
        with board.job("first", TaskProgress("first")):
            first_runs.set()
            assert go_on.wait(20)
            order.append("first")

    def other(name: str) -> None:
        try:
            with board.job(name, TaskProgress(name)):
                order.append(name)
        except Cancelled:
            order.append(f"{name} cancelled")

    threads = [threading.Thread(target=first)]
    threads[0].start()
    assert first_runs.wait(20)
    for name in ("second", "third"):
        threads.append(threading.Thread(target=other, args=(name,)))
        threads[-1].start()
    while "unknown" in (board.progress("second").state, board.progress("third").state):
        pass
    assert board.progress("second").state == "waiting"
    assert board.cancel("third")
    threads[2].join(20)
    assert order == ["third cancelled"]
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert order == ["third cancelled", "first", "second"]


def test_one_id_cannot_be_used_twice_at_once_and_old_ones_are_forgotten() -> None:
    board = TaskBoard()
    with (
        board.job("a", TaskProgress("merge")),
        pytest.raises(LoraclrError) as error,
        board.job("a", TaskProgress("merge")),
    ):
        pytest.fail("the second click ran")
    assert error.value.code == "task-exists"
    for number in range(REMEMBERED + 2):
        with board.job(str(number), TaskProgress("merge")):
            pass
    assert board.progress("a").state == "unknown"
    assert board.progress(str(REMEMBERED + 1)).state == "done"


def test_the_programs_queue_is_entered_and_left_also_after_a_failure() -> None:
    board, queue = TaskBoard(), threading.Lock()

    def enter() -> threading.Lock:
        return queue

    def fail() -> None:
        with board.job("a", TaskProgress("merge"), enter):
            assert queue.locked()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not queue.locked()
