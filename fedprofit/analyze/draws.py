"""Resamples of a study: of seeds and the clients within them, and of seeds crossed with tasks.

A *unit* is one test client of one seed. Two resampling schemes answer two questions.

- *Nested*: seeds with replacement and, within each drawn seed, its clients (Davison and Hinkley 1997, section
  3.8). How would the result differ for other trainings and other clients?
- *Crossed*: seeds with replacement, tasks with replacement, independently (Owen 2007, arXiv 0712.1111). A
  score of client and task counts as often as its seed times its task. How would the result differ for other
  trainings and other tasks? A client counts as often as the tasks that it trains on, on average.

Both are weights of what is averaged, and `mean` applies them to a curve.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fedprofit.analyze.curve import Curve, Floats, Indices
from fedprofit.core.seeding import numpy_generator

DRAWS = 20_000


@dataclass(frozen=True)
class UnitWeights:
    """How often each unit counts, `[draws, units]`."""

    counts: Floats

    def mean(self, curve: Curve) -> tuple[Floats, Floats]:
        """Average over the units that have the curve; NaN in a draw without any."""
        own = self.counts[:, curve.has]
        total = own.sum(1, keepdims=True)
        local, kept = (_divided(own @ scores[:, curve.has].T, total) for scores in (curve.local, curve.kept))
        return local, kept


@dataclass(frozen=True)
class CrossedWeights:
    """How often each seed and each task counts."""

    seeds: Floats  # [draws, seeds]
    tasks: Floats  # [draws, tasks]

    def mean(self, curve: Curve) -> tuple[Floats, Floats]:
        """Average over seeds and tasks; NaN in a draw that has no score."""
        sums = curve.by_seed_and_task
        local = _divided(
            np.einsum("ds,pst,dt->dp", self.seeds, sums.local, self.tasks, optimize=True),
            np.einsum("ds,st,dt->d", self.seeds, sums.local_weight, self.tasks, optimize=True)[:, None],
        )
        kept = np.stack([self._kept(one) for one in sums.kept], axis=1)
        return local, _divided(kept, self._kept(sums.kept_weight)[:, None])

    def _kept(self, sums: Floats) -> Floats:
        """Sum over seeds, own tasks and scored tasks: `[seeds, tasks, tasks]` to `[draws]`."""
        draws = len(self.tasks)
        # One seed at a time: all at once would need draws x tasks x tasks numbers.
        total: Floats = np.zeros(draws)
        for seed, of_seed in enumerate(sums):
            total += self.seeds[:, seed] * ((self.tasks @ of_seed) * self.tasks).sum(1)
        return total


def _divided(sums: Floats, total: Floats) -> Floats:
    weights = np.broadcast_to(total, sums.shape)
    found: Floats = np.divide(sums, weights, out=np.full(sums.shape, np.nan), where=weights > 0)
    return found


@lru_cache(maxsize=8)  # all comparisons of a study are over the same few sets of units
def nested(seeds: tuple[int, ...], draws: int = DRAWS, number: int = 0) -> UnitWeights:
    """Draw seeds with replacement, and clients within each.

    Args:
        seeds: the seed of each unit.
        draws: how many times.
        number: of the generator. The same number gives the same draws.

    >>> nested((7, 7, 8, 8), draws=3).counts.sum(1).tolist()
    [4.0, 4.0, 4.0]
    """
    generator = numpy_generator(number, "bootstrap, nested")
    names = sorted(set(seeds))
    drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), draws)
    counts = np.zeros((draws, len(seeds)))
    for column, seed in enumerate(names):
        own = np.flatnonzero(np.asarray(seeds) == seed)
        counts[:, own] = generator.multinomial(len(own) * drawn[:, column], np.full(len(own), 1 / len(own)))
    return UnitWeights(_shared(counts))


@lru_cache(maxsize=8)
def crossed(seeds: int, tasks: int, draws: int = DRAWS, number: int = 0) -> CrossedWeights:
    """Draw seeds and tasks with replacement, independently; arguments as of `nested`, by their counts.

    >>> weights = crossed(seeds=2, tasks=3, draws=4)
    >>> weights.seeds.sum(1).tolist(), weights.tasks.sum(1).tolist()
    ([2.0, 2.0, 2.0, 2.0], [3.0, 3.0, 3.0, 3.0])
    """
    generator = numpy_generator(number, "bootstrap, crossed")
    parts = (generator.multinomial(n, np.full(n, 1 / n), draws).astype(np.float64) for n in (seeds, tasks))
    first, second = map(_shared, parts)
    return CrossedWeights(first, second)


def _shared(counts: Floats) -> Floats:
    counts.flags.writeable = False  # cached
    return counts


def nested_variance(influence: Floats, seeds: Indices) -> float:
    """Return the variance over `nested` draws of the sum of units' counts times their influences.

    Args:
        influence: `[units]`.
        seeds: number of each unit's seed, from 0.
    """
    counts = np.bincount(seeds)
    sums = np.bincount(seeds, influence)
    squares = np.bincount(seeds, influence**2)
    # A drawn seed adds as many draws of its clients as it has.
    within = squares - sums**2 / counts
    return float(len(counts) * (sums.var() + within.mean()))


def multinomial_variance(influence: Floats) -> float:
    """Return the variance of the sum of counts times influences, for n draws of n items."""
    return float(len(influence) * influence.var())
