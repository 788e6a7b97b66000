"""Estimate of a study's time from the speed of this machine."""

from collections.abc import Sequence

import torch

from fedprofit.runs.bench import prepare
from fedprofit.runs.estimate import reading_speed
from fedprofit.runs.stages import stages_of
from fedprofit.studies.spec import PlannedRun
from fedprofit.studies.watch import finish_time

SAMPLED = 6  # maximum runs whose cost is counted; the others are assumed to be similar


def study_seconds(runs: Sequence[PlannedRun], at_a_time: int, left: Sequence[float] | None = None) -> float:
    """Estimate the time of runs in parallel processes with one thread each.

    The speed is measured on the first run's data. The cost of some runs is counted and averaged over all.

    Args:
        runs: at least one.
        at_a_time: number of parallel runs; the others follow in order.
        left: the remaining share of each run; default all of it.

    Returns:
        Seconds.
    """
    threads = torch.get_num_threads()
    benches = [(prepare(run.config), count) for run, count in typical(runs)]
    cost = sum(count * sum(stage.cost for stage in stages_of(bench)) for bench, count in benches)
    cost /= sum(count for _, count in benches)
    torch.set_num_threads(1)
    try:
        speed = reading_speed(benches[0][0])
    finally:
        torch.set_num_threads(threads)
    return finish_time([1.0] * len(runs) if left is None else left, at_a_time) * cost / speed


def typical(runs: Sequence[PlannedRun]) -> list[tuple[PlannedRun, int]]:
    """Return one run per grid cell, ignoring the seed, and the cell's number of runs; a subset if many."""
    cells: dict[tuple[str, ...], list[PlannedRun]] = {}
    for run in runs:
        cell = tuple(str(value) for axis, value in run.axes.items() if axis != "seed")
        cells.setdefault(cell, []).append(run)
    found = [(members[0], len(members)) for members in cells.values()]
    return found[:: max(1, -(-len(found) // SAMPLED))]
