"""Sampling of the clients of a round."""

from collections.abc import Sequence

from fedprofit.core.seeding import numpy_generator
from fedprofit.core.types import ClientId


def draw_cohort(clients: Sequence[ClientId], size: int, seed: int, round: int) -> list[ClientId]:
    """Draw `size` distinct clients uniformly, by seed and round; all of them if there are fewer.

    Memory depends on the cohort's size, not on the population's: `clients` may be a lazy sequence.

    >>> draw_cohort(["a", "b", "c"], 5, seed=0, round=1)
    ['a', 'b', 'c']
    """
    if size >= len(clients):
        return list(clients)
    generator = numpy_generator(seed, "cohort", round)
    chosen: set[int] = set()
    while len(chosen) < size:
        chosen.add(int(generator.integers(len(clients))))
    return [clients[position] for position in sorted(chosen)]
