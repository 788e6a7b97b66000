"""Division of a client's examples into batches, shuffled in every epoch.

A plan is a function of the number of examples and a generator; it returns positions. Tokens are read later,
only for the clients of the cohort.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Self

import numpy as np
from pydantic import model_validator

from fedprofit.config.base import Positive, Section

Positions = Sequence[int]
BatchPlan = Callable[[int, np.random.Generator], list[Positions]]


class LocalSteps(Section):
    """Length of local training: a number of steps or of epochs, and the batch size."""

    steps: Positive | None = None
    """Steps of each client; give either steps or epochs."""
    epochs: Positive | None = None
    """Passes over a client's own examples."""
    batch_size: Positive = 4
    """Examples per step."""

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        return self

    def per_client(self, examples: float) -> tuple[float, float]:
        """Return the steps of a client with that many examples, and how many rows each step reads."""
        steps = self.steps or (self.epochs or 0) * -(-examples // self.batch_size)
        return steps, min(self.batch_size, examples)

    def plan(self) -> BatchPlan:
        """Make the plan for these steps or epochs.

        Each epoch passes once over all examples in a fresh order; its last batch may be smaller. With
        `steps`, epochs are repeated until there are that many batches. Without examples there are none.

        >>> plan = LocalSteps(steps=3, batch_size=2).plan()
        >>> [len(batch) for batch in plan(3, np.random.default_rng(0))]
        [2, 1, 2]
        """

        def plan(count: int, generator: np.random.Generator) -> list[Positions]:
            if count == 0:
                return []
            per_epoch = -(-count // self.batch_size)
            steps = self.steps if self.steps is not None else (self.epochs or 0) * per_epoch
            batches: list[Positions] = []
            while len(batches) < steps:
                order = generator.permutation(count).tolist()
                batches += [order[i : i + self.batch_size] for i in range(0, count, self.batch_size)]
            return batches[:steps]

        return plan


def one_batch(size: int | Literal["full"]) -> BatchPlan:
    """Make the plan of one batch, drawn without replacement: of this size, or of all examples.

    >>> [len(batch) for batch in one_batch("full")(3, np.random.default_rng(0))]
    [3]
    """

    def plan(count: int, generator: np.random.Generator) -> list[Positions]:
        if count == 0:
            return []
        return [generator.permutation(count)[: count if size == "full" else size].tolist()]

    return plan
