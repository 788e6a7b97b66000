"""Honest numbers: intervals by a paired bootstrap over seeds and clients, and what a front is worth.

A *unit* is one test client of one seed. Two conditions are compared unit by unit, since clients differ
far more from each other than conditions do. A bootstrap draws seeds with replacement and, within each seed
drawn, its clients: what depends on the seed (training, partition, order) then widens the interval as it
should (Davison and Hinkley 1997, section 3.8), and further where the seeds are few (`widening`).
scipy's bootstrap draws one level alone, so that the draws are made here; tests hold them to it where it can.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fedprofit.core.seeding import numpy_generator

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

LEVEL, DRAWS = 0.95, 1000
UNSTEADY = 0.05  # of the resamples: where more of them cannot tell, there is no interval
UNBOUNDED = (-np.inf, np.inf)
LEAST_SEEDS, LEAST_CLIENTS = 2, 6  # for an interval: fewer tell nothing of how others would differ


@dataclass(frozen=True)
class Estimate:
    """An effect with its 95% interval, and how many seeds and clients are behind it."""

    value: float
    low: float | None  # no interval where there are too few seeds or clients for one, or it is unsteady
    high: float | None
    seeds: int
    clients: int
    unsteady: bool = False  # too many resamples cannot tell

    @property
    def sign(self) -> int:
        """Return 1 or -1 where the interval lies on one side of zero, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    def plain(self) -> dict[str, float | int | bool | None]:
        """Return the fields for JSON, which has no NaN: None where the value cannot be told."""
        return {**vars(self), "value": self.value if np.isfinite(self.value) else None}

    def __str__(self) -> str:
        return format(self)

    def __format__(self, spec: str) -> str:
        """Write the value and its interval, every number as `spec` says; by default with its sign.

        >>> f"{Estimate(4.125, 3.0, 5.5, 3, 36):.2f}"
        '4.12 [3.00, 5.50]'
        """
        if not np.isfinite(self.value):
            return "cannot be told"
        spec = spec or "+.3g"
        value = format(self.value, spec)
        if self.low is None:
            why = "too many resamples cannot tell; " * self.unsteady
            return f"{value} (no interval: {why}{counted(self)})"
        return f"{value} [{self.low:{spec}}, {self.high:{spec}}]"


def counted(estimate: Estimate, client: str = "client") -> str:
    """Say how many seeds and clients are behind an estimate.

    >>> counted(Estimate(1.0, None, None, 1, 12), "test client")
    '12 test clients of 1 seed'
    """
    clients, seeds = estimate.clients, estimate.seeds
    return f"{clients} {client}{'s' * (clients != 1)} of {seeds} seed{'s' * (seeds != 1)}"


@lru_cache(maxsize=16)  # all differences of a study are over the same few sets of units
def resamples(seeds: tuple[int, ...], draws: int = DRAWS) -> Floats:
    """Draw units with replacement: seeds, and clients within them.

    Args:
        seeds: the seed of each unit.
        draws: how many times.

    Returns:
        `[draws, units]`: how often each unit is in each draw. The same seeds give the same draws.

    >>> resamples((7, 7, 8, 8), draws=3).sum(1).tolist()
    [4.0, 4.0, 4.0]
    """
    generator = numpy_generator(0, "bootstrap")
    own = [np.flatnonzero(np.asarray(seeds) == seed) for seed in sorted(set(seeds))]
    counts = np.zeros((draws, len(seeds)))
    for row in counts:
        chosen = generator.integers(0, len(own), len(own))
        drawn = np.concatenate([generator.choice(own[seed], len(own[seed])) for seed in chosen])
        row += np.bincount(drawn, minlength=len(seeds))
    counts.flags.writeable = False  # it is kept, and given to everyone who asks
    return counts


@lru_cache(maxsize=16)
def resamples_within(seeds: tuple[int, ...], draws: int = DRAWS) -> Floats:
    """Draw clients within each seed with replacement, and all seeds every time; else as `resamples`.

    >>> resamples_within((7, 7, 8, 8), draws=2)[:, :2].sum(1).tolist()
    [2.0, 2.0]
    """
    generator, counts = numpy_generator(0, "bootstrap within seeds"), np.zeros((draws, len(seeds)))
    for seed in sorted(set(seeds)):
        own = np.flatnonzero(np.asarray(seeds) == seed)
        counts[:, own] = generator.multinomial(len(own), np.full(len(own), 1 / len(own)), draws)
    counts.flags.writeable = False
    return counts


def bootstrap(
    statistic: Callable[[Floats], Floats],
    seeds: Sequence[int],
    draws: int = DRAWS,
    least_seeds: int = LEAST_SEEDS,
    bounds: tuple[float, float] = UNBOUNDED,
    of_maxima: bool = False,
) -> Estimate:
    """Estimate a statistic of units and its interval: percentiles over resamples, widened for few seeds.

    Args:
        statistic: from how often each unit counts, `[draws, units]`, to a number for each draw, `[draws]`;
            NaN where they cannot tell.
        seeds: the seed of each unit.
        draws: resamples.
        least_seeds: with 1, an interval over the clients of a single seed is given; it leaves out what
            another seed would change.
        bounds: what the statistic cannot fall below or rise above, nor the interval, widened or not.
        of_maxima: it takes the best of several, which is better in resamples than in the sample, as in the
            sample it is better than in truth: the interval is as wide as resamples spread about their own
            mean, and lies lower by as much as that exceeds the estimate, the bootstrap's guess at the bias.

    Returns:
        The estimate. It has no interval where there are fewer than `least_seeds` seeds or `LEAST_CLIENTS`
        units, or where more than a twentieth of the resamples cannot tell.
    """
    units, count = len(seeds), len(set(seeds))
    value = float(statistic(np.ones((1, units)))[0])
    if count < least_seeds or units < LEAST_CLIENTS or not np.isfinite(value):
        return Estimate(value, None, None, count, units)
    found = statistic(resamples(tuple(seeds), draws))
    if np.isnan(found).mean() > UNSTEADY:
        return Estimate(value, None, None, count, units, unsteady=True)
    low, high = np.nanquantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    wider = widening(found, statistic(resamples_within(tuple(seeds), draws)), count, units)
    middle = float(np.nanmean(found)) if of_maxima else value
    low, high = (value + wider * (end - middle) - (middle - value) for end in (low, high))
    low, high = max(bounds[0], min(value, low)), min(bounds[1], max(value, high))
    return Estimate(value, low, high, count, units)


def widening(found: Floats, within: Floats, seeds: int, clients: int) -> float:
    """Return how much wider than its percentiles an interval must be, since few seeds tell little.

    The means of S seeds differ by what lies between seeds and by their clients. Resamples of seeds show
    (S - 1) / S of that variance, and show the clients' once more. Of S seeds it is known with S - 1 degrees
    of freedom, so that Student's t takes the place of the normal distribution. Of a single seed nothing is
    known of others, and the same holds of its clients.

    Args:
        found: the statistic of resamples of seeds and clients within them, `[draws]`.
        within: of resamples of clients within all seeds, `[draws]`.
        seeds: how many there are.
        clients: how many there are, in all seeds.

    Returns:
        1 or more. Of a mean, the interval is then about as wide as that of t over the means of the seeds, or
        over the clients of a single one, or as the bootstrap's where that is wider.
    """
    from scipy.special import stdtrit  # here: what reads results and asks for no interval waits for no scipy

    total, own = float(np.nanvar(found)), float(np.nanvar(within))
    if total == 0.0:
        return 1.0
    drawn, varied = (seeds, max(0.0, total - own)) if seeds > 1 else (clients, total)
    student, normal = stdtrit([drawn - 1, np.inf], (1 + LEVEL) / 2)
    return max(1.0, float(student / normal * np.sqrt(varied * drawn / (drawn - 1) / total)))


def mean_of(
    values: Floats,
    seeds: Sequence[int],
    least_seeds: int = LEAST_SEEDS,
    bounds: tuple[float, float] = UNBOUNDED,
) -> Estimate:
    """Estimate the mean of the units' values, `[units]`; other arguments as of `bootstrap`."""
    return bootstrap(
        lambda counts: counts @ values / counts.sum(1), seeds, least_seeds=least_seeds, bounds=bounds
    )


def front(points: Floats) -> Indices:
    """Return the numbers of the points `[points, 2]` that no other point beats on both axes.

    >>> front(np.array([[1.0, 3.0], [2.0, 2.0], [1.5, 1.5], [3.0, 1.0]])).tolist()
    [0, 1, 3]
    """
    better = (points[:, None] >= points[None]).all(-1) & (points[:, None] > points[None]).any(-1)
    return np.flatnonzero(~better.any(0))


def hypervolume(points: Floats, reference: Floats | Sequence[float]) -> Floats:
    """Return the area that points dominate, above and to the right of a reference point.

    Args:
        points: `[..., points, 2]`; higher is better.
        reference: `[..., 2]`, for example the base model's scores.

    Returns:
        `[...]`.

    >>> float(hypervolume(np.array([[1.0, 3.0], [3.0, 1.0]]), [0.0, 0.0]))
    5.0
    """
    above = np.maximum(points - np.asarray(reference)[..., None, :], 0.0)
    order = np.argsort(-above[..., 0], axis=-1, kind="stable")
    width, height = (np.take_along_axis(above[..., axis], order, axis=-1) for axis in (0, 1))
    # From the widest on, each adds what it is higher than all that are wider.
    higher = np.diff(np.maximum.accumulate(height, axis=-1), axis=-1, prepend=0.0)
    area: Floats = (width * higher).sum(-1)
    return area


def area_under(local: Floats, kept: Floats, reference: tuple[Floats, Floats] | Sequence[float]) -> Floats:
    """Return the area under trade-off curves, above and to the right of a reference point.

    Args:
        local: `[..., points]`, along the steps; higher is better.
        kept: `[..., points]`, the global scores.
        reference: a local and a global score, numbers or `[...]` each, for example of the base model.

    Returns:
        `[...]`: the global score above the reference's, integrated over the local score, from the reference's
        to the highest that the curve reaches. Up to where the curve starts it is that at the start; from
        there it is that where a level is first reached.

    >>> float(area_under(np.array([1.0, 3.0, 2.0]), np.array([4.0, 2.0, 0.0]), [0.0, 0.0]))
    10.0
    """
    x, y = local - np.asarray(reference[0])[..., None], kept - np.asarray(reference[1])[..., None]
    reach = np.maximum.accumulate(np.maximum(x, 0.0), axis=-1)
    width, step = np.diff(reach), np.diff(x)
    # A segment counts from where it goes beyond what was reached before.
    skipped = np.divide(reach[..., :-1] - x[..., :-1], step, out=np.zeros_like(step), where=width > 0)
    enters, leaves = y[..., :-1] + skipped * np.diff(y), y[..., 1:]
    high, low = np.maximum(enters, leaves), np.minimum(enters, leaves)
    # What of a segment lies above the reference: all of it, none, or a triangle.
    triangle = np.divide(high**2, 2 * (high - low), out=np.zeros_like(step), where=high > low)
    height = np.where(low >= 0, (high + low) / 2, np.where(high > 0, triangle, 0.0))
    area: Floats = reach[..., 0] * np.maximum(0.0, y[..., 0]) + (width * height).sum(-1)
    return area


def kept_at(local: Floats, kept: Floats, levels: Floats) -> Floats:
    """Return the global scores of curves where their local scores first reach some levels.

    Args:
        local: `[..., points]`, along the steps; higher is better.
        kept: `[..., points]`, the global scores.
        levels: `[..., levels]`, of the local score.

    Returns:
        `[..., levels]`. Between two points, the global score is interpolated linearly; NaN where a level is
        not reached.

    >>> kept_at(np.array([0.0, 2.0, 3.0]), np.array([10.0, 8.0, 4.0]), np.array([1.0, 3.0])).tolist()
    [9.0, 4.0]
    """
    points = local.shape[-1]
    best = np.maximum.accumulate(local, axis=-1)
    reached = (best[..., None, :] < levels[..., None]).sum(-1)
    last = np.minimum(reached, points - 1)
    before = np.maximum(last - 1, 0)
    x0, x1, y0, y1 = (
        np.take_along_axis(scores, place, axis=-1) for scores in (local, kept) for place in (before, last)
    )
    share = np.divide(levels - x0, x1 - x0, out=np.zeros_like(levels), where=(x1 > x0) & (last > 0))
    found = np.where(reached == 0, kept[..., :1], y0 + share * (y1 - y0))
    return np.where(reached < points, found, np.nan)


def knee(local: Floats, kept: Floats) -> int:
    """Return the number of the point farthest beyond the line between a front's ends (Branke et al. 2004).

    A point alone is its own knee; -1 where none lies beyond that line.

    >>> knee(np.array([0.0, 4.0, 5.0]), np.array([5.0, 4.0, 0.0]))
    1
    >>> knee(np.array([0.0, 5.0]), np.array([5.0, 0.0]))
    -1
    """
    if len(local) == 1:
        return 0
    order = np.argsort(local, kind="stable")
    ends = local[order[-1]] - local[order[0]], kept[order[-1]] - kept[order[0]]
    away = ends[0] * (kept - kept[order[0]]) - ends[1] * (local - local[order[0]])
    farthest = int(np.argmax(away))
    return farthest if away[farthest] > 0 and farthest not in (order[0], order[-1]) else -1


def worst_tenth(forgetting: Floats, seeds: Sequence[int]) -> Estimate:
    """Estimate the mean over the tenth of the units (at least one) that forget most; `[units]` each."""
    order = np.argsort(-forgetting, kind="stable")

    def statistic(counts: Floats) -> Floats:
        drawn = counts[:, order]
        tenth = np.ceil(drawn.sum(1, keepdims=True) / 10)
        taken = np.clip(tenth - (drawn.cumsum(1) - drawn), 0, drawn)
        mean: Floats = taken @ forgetting[order] / taken.sum(1)
        return mean

    return bootstrap(statistic, seeds, of_maxima=True)
