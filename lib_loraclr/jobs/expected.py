"""How the time of a merge divides among its phases, so that one bar can show the whole job."""

from __future__ import annotations

from lib_loraclr.jobs.settings import Plan

# Relative durations; only their proportions matter, and a phase that does not come (cached) is jumped over.
READ, LOAD, SAMPLE_ROUND, TEXT_ROUND, EXAM, LESSONS, LEARN, SOLVE, WRITE = (
    1.0,
    3.0,
    60.0,
    5.0,
    40.0,
    100.0,
    250.0,
    3.0,
    1.0,
)


def expected_phases(plan: Plan) -> list[tuple[str, float]]:
    """(beginning of the phase's name, relative duration) of every phase that `merge` announces, in order."""
    phases = [("Reading", READ)]
    if plan.samples:
        capture = SAMPLE_ROUND if plan.capture.preset == "full" else TEXT_ROUND
        phases += [("Loading", LOAD), ("capture", capture)]
        phases += [("Solving", SOLVE), ("capture", capture)] * plan.rounds
    if plan.distill.steps:
        phases += [("Solving", SOLVE), ("Asking", EXAM), ("Drawing", LESSONS), ("Distilling", LEARN)]
    return [*phases, ("Solving", SOLVE), ("Writing", WRITE)]
