"""Compare the retained scores of two groups of curves at the same local score."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedprofit.analyze.curve import Curve, Floats, Indices, Weights
from fedprofit.analyze.draws import UnitWeights, nested
from fedprofit.analyze.geometry import kept_at
from fedprofit.analyze.intervals import Estimate, counted, estimate

LEVELS = 11  # local scores at which two curves are compared

Pair = tuple[Curve, Curve]
Contrast = tuple[Pair, Pair | None]  # a pair; with a second one, the difference of their effects


@dataclass(frozen=True)
class Comparison:
    """Difference of the retained scores of two groups of curves, at the same local scores.

    Attributes:
        what: what is compared with what.
        estimate: the mean difference of the retained scores.
        compared: pairs of curves in the mean.
        pairs: all pairs in the study.
        unstable: pairs left out because they are undefined in too many resamples.
        two_points: pairs in the mean of which a curve has no point between its ends.
        left_out: pairs left out because a curve has no point between its ends.
        levels: mean range of the compared local scores; None without overlap.
        steps: ratio of the first curves' steps to the second ones', to the highest compared level.
    """

    what: str
    estimate: Estimate
    compared: int
    pairs: int
    unstable: int = 0
    two_points: int = 0
    left_out: int = 0
    levels: tuple[float, float] | None = None
    steps: float | None = None

    def __str__(self) -> str:
        found = self.estimate
        # Without an interval, the estimate itself says how many clients are too few.
        size = "" if found.low is None and np.isfinite(found.value) else f"; {counted(found)}"
        notes = [f"{self.two_points} by their ends only"] * bool(self.two_points)
        notes += [f"{self.unstable} more undefined in too many resamples"] * bool(self.unstable)
        notes += [f"{self.left_out} without a step between start and end"] * bool(self.left_out)
        noted = f" ({', '.join(notes)})" if notes else ""
        return f"{self.what}: {found}{size}; {self.compared} of {self.pairs} pairs of curves{noted}"


def compare_effects(
    what: str,
    contrasts: Sequence[Contrast],
    seeds: Sequence[int],
    tasks: int = 0,
    left_out: int = 0,
) -> Comparison:
    """Estimate the mean effect of pairs of curves, or the mean difference of the effects of two pairs.

    The effect of a pair is how much more its first curve retains than its second, at the same local scores.
    The mean is over contrasts that are defined on all units. The least stable ones are left out until all
    others are defined in 95% of the resamples. Every resample averages the same contrasts. If a single one
    is still undefined too often, the mean is over all, without an interval.

    Args:
        what: what is compared with what.
        contrasts: one or two pairs of curves each, all on the same units.
        seeds: the seed of each unit.
        tasks: the number of tasks; 0 where scores by task are unknown.
        left_out: the number of pairs that the caller left out.
    """
    every = [(_same_units(pair), other and _same_units(other)) for pair, other in contrasts]
    everyone = UnitWeights(np.ones((1, len(seeds))))
    defined = [one for one in every if np.isfinite(effect(one, everyone)[0])]
    defined = _most_stable_first(defined, seeds)

    def estimated(used: Sequence[Contrast]) -> Estimate:
        own = _units(used or every)
        restricted = [_of(one, own) for one in used]

        def statistic(weights: Weights) -> Floats:
            found = [effect(one, weights) for one in restricted]
            return np.mean(found, axis=0) if found else np.full(1, np.nan)

        return estimate(statistic, [seeds[unit] for unit in own], tasks)

    used, found = defined, estimated(defined)
    while found.unsteady and len(used) > 1:
        used = used[:-1]
        found = estimated(used)
    if found.low is None:  # leaving contrasts out gave no interval
        used, found = defined, estimated(defined)
    curves = [[curve for pair in one if pair for curve in pair] for one in used]
    return Comparison(
        what,
        found,
        len(used),
        len(every) + left_out,
        len(defined) - len(used),
        sum(min(len(curve.local) for curve in one) < 3 for one in curves),
        left_out,
        *_levels_and_steps([pair for pair, _ in used], everyone),
    )


def _same_units(pair: Pair) -> Pair:
    first, second = pair
    return first.beside(second), second.beside(first)


def _of(contrast: Contrast, units: Indices) -> Contrast:
    pair, other = ((one[0].of(units), one[1].of(units)) if one else None for one in contrast)
    assert pair is not None
    return pair, other


def _units(contrasts: Sequence[Contrast]) -> Indices:
    """Return the units that have any of the curves."""
    curves = [curve for one in contrasts for pair in one if pair for curve in pair]
    return np.flatnonzero(np.any([curve.has for curve in curves], axis=0)) if curves else np.arange(0)


def _most_stable_first(contrasts: Sequence[Contrast], seeds: Sequence[int]) -> list[Contrast]:
    """Order contrasts by the share of resamples in which they are undefined."""

    def undefined(one: Contrast) -> float:
        own = _units([one])
        weights = nested(tuple(seeds[unit] for unit in own), draws=2000)
        return float(np.isnan(effect(_of(one, own), weights)).mean())

    return sorted(contrasts, key=undefined)


def effect(contrast: Contrast, weights: Weights) -> Floats:
    """Return the effect of a pair of curves, or the difference of two pairs' effects, `[draws]`."""
    pair, other = contrast
    found = retained_more(pair, weights)
    return found if other is None else found - retained_more(other, weights)


def _levels_and_steps(
    pairs: Sequence[Pair], everyone: Weights
) -> tuple[tuple[float, float] | None, float | None]:
    """Return the mean range of compared local scores, and the mean ratio of steps to its upper end."""
    ranges, ratios = [], []
    for first, second in pairs:
        curves = [(one.mean(everyone)[0][0], one.steps) for one in (first, second)]
        low = max(local[0] for local, _ in curves)
        high = min(local.max() for local, _ in curves)
        ranges.append((low, high))
        if all(steps is not None for _, steps in curves):
            taken = [
                float(kept_at(local, steps, np.array([high]))[0])
                for local, steps in curves
                if steps is not None
            ]
            if taken[1] > 0:
                ratios.append(taken[0] / taken[1])
    if not ranges:
        return None, None
    lows, highs = np.mean(ranges, axis=0).tolist()
    return (lows, highs), float(np.mean(ratios)) if ratios else None


def retained_more(pair: Pair, weights: Weights) -> Floats:
    """Return how much more the first curve of a pair retains than the second, `[draws]`."""
    first, second = pair
    return between(first.mean(weights), second.mean(weights))


def between(first: tuple[Floats, Floats], second: tuple[Floats, Floats]) -> Floats:
    """Return how much more the first curves retain, as a mean over the local scores that both reach.

    Args:
        first: local and retained scores, `[draws, points]` each.
        second: likewise; it may have other points.

    Returns:
        `[draws]`; NaN where they reach no local score in common above their starts.

    >>> steps, flat, steep = np.array([[0.0, 1.0]]), np.array([[9.0, 9.0]]), np.array([[9.0, 5.0]])
    >>> bool(between((steps, flat), (steps, steep))[0] > 0)
    True
    """
    low = np.maximum(first[0][:, 0], second[0][:, 0])
    high = np.minimum(first[0].max(1), second[0].max(1))
    levels = np.linspace(low, high, LEVELS, axis=1)[:, 1:]
    more = (kept_at(*first, levels) - kept_at(*second, levels)).mean(1)
    return np.where(high > low, more, np.nan)
