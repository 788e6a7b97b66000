"""How a client's examples become batches: shuffled by epoch, cut into batches, drawn by seed.

A plan is a function of the number of examples and a generator, and returns positions; texts and tokens
are read later, and only for the clients of the cohort.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from fedprofit.config import LocalWork

Positions = Sequence[int]
BatchPlan = Callable[[int, np.random.Generator], list[Positions]]


def plan_of(work: LocalWork) -> BatchPlan:
    """Make the plan of local steps or epochs.

    Each epoch passes once over all examples in a fresh order; its last batch may be smaller. With
    `steps`, epochs follow each other until there are that many batches. No examples, no batches.

    >>> plan = plan_of(LocalWork(steps=3, batch_size=2))
    >>> [len(batch) for batch in plan(3, np.random.default_rng(0))]
    [2, 1, 2]
    """

    def plan(count: int, generator: np.random.Generator) -> list[Positions]:
        if count == 0:
            return []
        per_epoch = -(-count // work.batch_size)
        steps = work.steps if work.steps is not None else (work.epochs or 0) * per_epoch
        batches: list[Positions] = []
        while len(batches) < steps:
            order = generator.permutation(count).tolist()
            batches += [order[i : i + work.batch_size] for i in range(0, count, work.batch_size)]
        return batches[:steps]

    return plan


def one_batch(size: int | Literal["full"]) -> BatchPlan:
    """Make the plan of one batch without replacement: of this size, or all there is.

    >>> [len(batch) for batch in one_batch("full")(3, np.random.default_rng(0))]
    [3]
    """

    def plan(count: int, generator: np.random.Generator) -> list[Positions]:
        if count == 0:
            return []
        return [generator.permutation(count)[: count if size == "full" else size].tolist()]

    return plan
