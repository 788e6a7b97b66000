"""Random examples, ragged on purpose: rows, prefixes and targets of many lengths."""

from collections.abc import Sequence

import numpy as np

from fedprofit.backbone.load import Backbone
from fedprofit.core.types import Batch, ClientBatches, Example, Params
from fedprofit.local.base import Term
from fedprofit.local.optimizer import ClientOptimizerSettings
from fedprofit.local.reference import Sequential


def example(draw: np.random.Generator, size: int, prefix: np.ndarray) -> Example:
    """Make one example over a vocabulary of `size` tokens."""

    def tokens(low: int, high: int) -> np.ndarray:
        return draw.integers(3, size, int(draw.integers(low, high))).astype(np.int32)

    return Example(prefix, tokens(1, 12), tokens(1, 6), "task", ("",))


def ragged_batch(seed: int, rows: int, size: int = 300, prefixes: int = 2) -> Batch:
    """Make a batch whose rows share `prefixes` prefixes, one of them empty."""
    draw = np.random.default_rng(seed)
    shared = [np.zeros(0, np.int32)] + [
        draw.integers(3, size, 4 + p).astype(np.int32) for p in range(prefixes)
    ]
    return [example(draw, size, shared[int(draw.integers(len(shared)))]) for _ in range(rows)]


def ragged_cohort(seed: int = 0) -> list[ClientBatches]:
    """Four clients: three steps, one step, none at all, two steps; batches of one to five rows."""
    plan = [[3, 5, 1], [2], [], [4, 2]]
    return [
        ClientBatches(
            f"c{k}", [ragged_batch(100 * seed + 10 * k + s, n) for s, n in enumerate(sizes)], sum(sizes)
        )
        for k, sizes in enumerate(plan)
    ]


def solve_one(
    backbone: Backbone,
    params: Params,
    one: ClientBatches,
    optimizer: ClientOptimizerSettings,
    terms: Sequence[Term] = (),
) -> tuple[Params, list[float]]:
    """Train one client by the sequential reference, from unstacked parameters; return them and its losses."""
    start = {key: tensor[None] for key, tensor in params.items()}
    result, _ = Sequential(backbone).solve(start, [one], optimizer, terms)
    return {key: tensor[0] for key, tensor in result.params.items()}, result.losses[0]
