"""Estimates with conservative intervals over seeds, clients and tasks, also for few seeds.

The standard error of an estimate is the largest of three: over nested resamples of seeds and clients, over
crossed resamples of seeds and tasks (`draws.py`), and the jackknife over seeds (Efron and Stein 1981). The
jackknife does not underestimate the variance of few seeds, as resamples do. The interval is the estimate plus
and minus Student's t times that error. It has one degree of freedom fewer than there are seeds.

The part of a resampled statistic that is linear in the weights has a known variance. Only the rest is
estimated from draws (a control variate), so that the interval hardly depends on the generator.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedprofit.analyze.curve import Floats, Indices, Weights
from fedprofit.analyze.draws import (
    DRAWS,
    CrossedWeights,
    UnitWeights,
    crossed,
    multinomial_variance,
    nested,
    nested_variance,
)

LEVEL, POWER = 0.95, 0.8
MOST_UNDEFINED = 0.05  # largest share of resamples in which an estimate may be undefined
UNBOUNDED = (-np.inf, np.inf)
LEAST_SEEDS, LEAST_CLIENTS = 2, 6  # for an interval

Statistic = Callable[[Weights], Floats]  # from weights to a number for each draw; NaN where undefined


@dataclass(frozen=True)
class Estimate:
    """An effect with its 95% interval, and the number of its seeds and clients.

    Attributes:
        value: the effect; NaN where it is undefined.
        low: the interval's lower end. None where there are too few seeds or clients, or `unsteady`.
        high: its upper end.
        seeds: the number of seeds.
        clients: the number of units: test clients of all seeds.
        unsteady: whether the effect is undefined in too many resamples.
        error: the standard error; None without an interval.
        errors: the standard errors over clients, tasks and seeds.
        freedom: degrees of freedom of the interval.
    """

    value: float
    low: float | None
    high: float | None
    seeds: int
    clients: int
    unsteady: bool = False
    error: float | None = None
    errors: tuple[tuple[str, float], ...] = ()
    freedom: int = 0

    @property
    def sign(self) -> int:
        """1 or -1 where the interval is on one side of zero, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    @property
    def probability(self) -> float:
        """The two-sided p-value of no effect; 1 without an interval."""
        if self.error is None:
            return 1.0
        if self.error == 0:
            return float(self.value == 0)
        from scipy.special import stdtr

        return float(2 * stdtr(self.freedom, -abs(self.value) / self.error))

    @property
    def detectable(self) -> float | None:
        """The smallest effect that would be shown with 80% power; None without an interval."""
        if self.error is None:
            return None
        return float((quantile((1 + LEVEL) / 2, self.freedom) + quantile(POWER, self.freedom)) * self.error)

    def interval_by(self, what: str) -> tuple[float, float] | None:
        """Return the interval by one of the errors, such as "clients"; None where it is unknown."""
        error = dict(self.errors).get(what)
        if error is None:
            return None
        half = quantile((1 + LEVEL) / 2, self.freedom) * error
        return self.value - half, self.value + half

    def plain(self) -> dict[str, object]:
        """Return the fields for JSON, which has no NaN: None where the value is undefined."""
        value = self.value if np.isfinite(self.value) else None
        return {**vars(self), "value": value, "errors": dict(self.errors)}

    def __str__(self) -> str:
        return format(self)

    def __format__(self, spec: str) -> str:
        """Format the value and its interval, every number with `spec`; by default with its sign.

        >>> f"{Estimate(4.125, 3.0, 5.5, 3, 36):.2f}"
        '4.12 [3.00, 5.50]'
        """
        if not np.isfinite(self.value):
            return "undefined"
        spec = spec or "+.3g"
        value = format(self.value, spec)
        if self.low is None:
            why = "undefined in too many resamples; " * self.unsteady
            return f"{value} (no interval: {why}{counted(self)})"
        return f"{value} [{self.low:{spec}}, {self.high:{spec}}]"


def counted(estimate: Estimate, client: str = "client") -> str:
    """Describe the number of seeds and clients of an estimate.

    >>> counted(Estimate(1.0, None, None, 1, 12), "test client")
    '12 test clients of 1 seed'
    """
    clients, seeds = estimate.clients, estimate.seeds
    return f"{clients} {client}{'s' * (clients != 1)} of {seeds} seed{'s' * (seeds != 1)}"


def quantile(probability: float, freedom: float) -> float:
    """Return a quantile of Student's t.

    >>> round(quantile(0.975, 9), 3)
    2.262
    """
    from scipy.special import stdtrit  # reading results without intervals does not load scipy

    return float(stdtrit(freedom, probability))


def estimate(
    statistic: Statistic,
    seeds: Sequence[int],
    tasks: int = 0,
    least_seeds: int = LEAST_SEEDS,
    bounds: tuple[float, float] = UNBOUNDED,
    of_maxima: bool = False,
    number: int = 0,
    draws: int = DRAWS,
) -> Estimate:
    """Estimate a statistic of units and its interval.

    Args:
        statistic: from weights to a number for each draw; NaN where undefined.
        seeds: the seed of each unit.
        tasks: the number of tasks, if the statistic takes crossed weights; 0 leaves them out.
        least_seeds: with 1, a single seed has an interval over its clients. It leaves out the variance over
            seeds.
        bounds: of the statistic and its interval.
        of_maxima: the statistic is the best of several, which is biased upwards. The interval is lowered by
            the bootstrap's estimate of the bias: the mean excess of the resamples over the sample.
        number: of the generator.
        draws: resamples by each scheme.

    Returns:
        The estimate. It has no interval with fewer than `least_seeds` seeds or `LEAST_CLIENTS` units, or
        where more than a twentieth of the resamples are undefined.
    """
    names = sorted(set(seeds))
    units, count = len(seeds), len(names)
    value = float(statistic(UnitWeights(np.ones((1, units))))[0])
    if count < least_seeds or units < LEAST_CLIENTS or not np.isfinite(value):
        return Estimate(value, None, None, count, units)
    place = np.searchsorted(names, seeds).astype(np.int64)
    drawn = nested(tuple(seeds), draws, number)
    found = {"clients": _nested_error(statistic, drawn, place, value)}
    if tasks > 1:
        found["tasks"] = _crossed_error(statistic, crossed(count, tasks, draws, number), value)
    if any(error is None for error, _ in found.values()):
        return Estimate(value, None, None, count, units, unsteady=True)
    errors = {name: float(error) for name, (error, _) in found.items() if error is not None}
    if count > 1:
        errors["seeds"] = _jackknife_error(statistic, place)
    freedom = (count if count > 1 else units) - 1
    error = max(errors.values())
    bias = found["clients"][1] if of_maxima else 0.0
    half = quantile((1 + LEVEL) / 2, freedom) * error
    low, high = max(bounds[0], value - bias - half), min(bounds[1], value - bias + half)
    low, high = min(low, value), max(high, value)
    return Estimate(value, low, high, count, units, False, error, tuple(errors.items()), freedom)


def _nested_error(
    statistic: Statistic, weights: UnitWeights, place: Indices, value: float
) -> tuple[float | None, float]:
    units = len(place)
    influence = value - statistic(UnitWeights(1.0 - np.eye(units)))
    influence = np.nan_to_num(influence, nan=0.0)
    linear = (weights.counts - 1.0) @ influence
    return _error(statistic(weights), linear, nested_variance(influence, place), value)


def _crossed_error(statistic: Statistic, weights: CrossedWeights, value: float) -> tuple[float | None, float]:
    seeds, tasks = weights.seeds.shape[1], weights.tasks.shape[1]
    ones = CrossedWeights(np.ones((1, seeds)), np.ones((1, tasks)))
    start = float(statistic(ones)[0])
    by_seed = start - statistic(CrossedWeights(1.0 - np.eye(seeds), np.ones((seeds, tasks))))
    by_task = start - statistic(CrossedWeights(np.ones((tasks, seeds)), 1.0 - np.eye(tasks)))
    by_seed, by_task = (np.nan_to_num(one, nan=0.0) for one in (by_seed, by_task))
    linear = (weights.seeds - 1.0) @ by_seed + (weights.tasks - 1.0) @ by_task
    known = multinomial_variance(by_seed) + multinomial_variance(by_task)
    return _error(statistic(weights), linear, known, value)


def _error(found: Floats, linear: Floats, known: float, value: float) -> tuple[float | None, float]:
    """Return the standard error over draws, None if too many are undefined, and the mean excess.

    Args:
        found: the statistic in each draw.
        linear: its linear part in each draw.
        known: the variance of the linear part over all possible draws.
        value: the statistic of the sample.
    """
    defined = np.isfinite(found)
    if 1 - defined.mean() > MOST_UNDEFINED:
        return None, 0.0
    found, linear = found[defined], linear[defined]
    variance = max(0.0, known + float(found.var() - linear.var()))
    return float(np.sqrt(variance)), float(found.mean() - value)


def _jackknife_error(statistic: Statistic, place: Indices) -> float:
    """Return the jackknife's standard error over seeds; 0 if the statistic needs all of them."""
    seeds = int(place.max()) + 1
    without = 1.0 - (np.arange(seeds)[:, None] == place)
    found = statistic(UnitWeights(without))
    found = found[np.isfinite(found)]
    return float(np.sqrt((len(found) - 1) * found.var())) if len(found) > 1 else 0.0


def mean_of(
    values: Floats,
    seeds: Sequence[int],
    least_seeds: int = LEAST_SEEDS,
    bounds: tuple[float, float] = UNBOUNDED,
) -> Estimate:
    """Estimate the mean of the units' values, `[units]`; other arguments as of `estimate`."""

    def mean(weights: Weights) -> Floats:
        assert isinstance(weights, UnitWeights)
        found: Floats = weights.counts @ values / weights.counts.sum(1)
        return found

    return estimate(mean, seeds, least_seeds=least_seeds, bounds=bounds)


def worst_tenth(forgetting: Floats, seeds: Sequence[int]) -> Estimate:
    """Estimate the mean over the tenth of the units (at least one) that forget most; `[units]` each."""
    order = np.argsort(-forgetting, kind="stable")

    def statistic(weights: Weights) -> Floats:
        assert isinstance(weights, UnitWeights)
        drawn = weights.counts[:, order]
        tenth = np.ceil(drawn.sum(1, keepdims=True) / 10)
        taken = np.clip(tenth - (drawn.cumsum(1) - drawn), 0, drawn)
        mean: Floats = taken @ forgetting[order] / taken.sum(1)
        return mean

    return estimate(statistic, seeds, of_maxima=True, draws=2000)  # one for each row of a report


def holm(probabilities: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's method (Holm 1979), in the same order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(probabilities)), key=lambda number: probabilities[number])
    corrected, highest = [0.0] * len(probabilities), 0.0
    for rank, number in enumerate(order):
        highest = max(highest, min(1.0, (len(probabilities) - rank) * probabilities[number]))
        corrected[number] = highest
    return corrected
