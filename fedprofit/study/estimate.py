"""How long a run or a study would take, from the speed measured on this machine."""

import time
from collections.abc import Sequence

import torch

from fedprofit.local.solver import gradients
from fedprofit.study.bench import Bench, prepare
from fedprofit.study.plan import measure, stages
from fedprofit.study.spec import PlannedRun
from fedprofit.study.watch import in_turn
from fedprofit.types import Batch

LOOKED_AT = 6  # runs of a study, at most, whose work is counted; the others are taken to be like them
MOST_ROWS = 4  # of a client, in the steps that the speed is measured by


def reading_speed(bench: Bench) -> float:
    """Measure tokens read per second, from training steps by a cohort of the first train clients.

    The steps are as large as the first algorithm's, if those are small: small ones are slower by the token.
    """
    work, training = measure(bench), bench.config.training
    rows = int(training.algorithms[0].local_work(MOST_ROWS)[1])
    cohort = bench.dataset.clients("train")[: training.cohort]
    batches: list[Batch] = [bench.dataset.examples(client, "train")[:rows] for client in cohort]
    start = {key: tensor.expand(len(batches), *tensor.shape) for key, tensor in bench.start.items()}
    gradients(bench.engine, start, batches)  # the first pass pays for allocations
    began = time.monotonic()
    for _ in range(2):
        gradients(bench.engine, start, batches)
    done = work.trained(len(batches), 2, sum(map(len, batches)) / len(batches))
    return done / (time.monotonic() - began)


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
    work = sum(like_it * sum(stages(bench).values()) for bench, like_it in looked)
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
