"""How long a study would take, from the speed measured on this machine."""

from collections.abc import Sequence

import torch

from fedprofit.runs.bench import prepare
from fedprofit.runs.estimate import reading_speed
from fedprofit.runs.stages import stages_of
from fedprofit.studies.spec import PlannedRun
from fedprofit.studies.watch import in_turn

LOOKED_AT = 6  # runs of a study, at most, whose work is counted; the others are taken to be like them


def study_seconds(runs: Sequence[PlannedRun], at_a_time: int, left: Sequence[float] | None = None) -> float:
    """Estimate how long runs take side by side, each computed by one process with one thread.

    The speed is measured on the first run's data; some runs' work is counted, spread over all.

    Args:
        runs: at least one.
        at_a_time: how many are computed side by side; the others follow in order.
        left: the share of each that is left to do, where some have begun.
    """
    threads = torch.get_num_threads()
    looked = [(prepare(run.config), like_it) for run, like_it in typical(runs)]
    work = sum(like_it * sum(stage.cost for stage in stages_of(bench)) for bench, like_it in looked)
    work /= sum(like_it for _, like_it in looked)
    torch.set_num_threads(1)
    try:
        alone = reading_speed(looked[0][0])
    finally:
        torch.set_num_threads(threads)
    return in_turn([1.0] * len(runs) if left is None else left, at_a_time) * work / alone


def typical(runs: Sequence[PlannedRun]) -> list[tuple[PlannedRun, int]]:
    """Return one run for each place on the axes but the seed, and how many there are; not all of many."""
    places: dict[tuple[str, ...], list[PlannedRun]] = {}
    for run in runs:
        place = tuple(str(value) for axis, value in run.axes.items() if axis != "seed")
        places.setdefault(place, []).append(run)
    found = [(members[0], len(members)) for members in places.values()]
    return found[:: max(1, -(-len(found) // LOOKED_AT))]
