"""Resamples of trade-off curves, compared with a loop over the drawn units."""

import numpy as np
import pytest

from fedprofit.analyze.comparison import LEVELS, between
from fedprofit.analyze.curve import Curve
from fedprofit.analyze.draws import UnitWeights


def read_at(local, kept, level):
    """Walk along one curve to where it first reaches a level."""
    if local[0] >= level:
        return kept[0]
    for j in range(1, len(local)):
        if local[j] >= level:
            return kept[j - 1] + (level - local[j - 1]) / (local[j] - local[j - 1]) * (kept[j] - kept[j - 1])
    raise AssertionError("a level that both reach is not reached")


def kept_more(first, second):
    """Compare two single curves at local scores that both reach; NaN if there are none."""
    low, high = max(first[0][0], second[0][0]), min(max(first[0]), max(second[0]))
    if high <= low:
        return float("nan")
    levels = np.linspace(low, high, LEVELS)[1:]
    return np.mean([read_at(*first, level) - read_at(*second, level) for level in levels])


def test_between_equals_a_loop_over_drawn_units():
    draw = np.random.default_rng(0)
    curves = [Curve(draw.normal(0, 1, (4, 9)), draw.normal(0, 1, (4, 9))) for _ in range(2)]
    curves[0].local[:, 7] = np.nan
    curves[1].kept[2, 8] = np.nan
    counts = draw.multinomial(9, np.full(9, 1 / 9), 300).astype(float)
    counts[0] = np.eye(9)[7] * 9  # none of these units has the first curve
    found = between(*[curve.mean(UnitWeights(counts)) for curve in curves])
    for row, more in zip(counts, found, strict=True):
        units = np.repeat(np.arange(9), row.astype(int))
        means = []
        for curve in curves:
            own = [unit for unit in units if np.isfinite(curve.local[:, unit] + curve.kept[:, unit]).all()]
            whole = [(curve.local[:, unit], curve.kept[:, unit]) for unit in own]
            means.append(np.mean(whole, axis=0) if own else np.full((2, 4), np.nan))
        expected = kept_more(*means) if np.isfinite(means).all() else float("nan")
        assert more == pytest.approx(expected, nan_ok=True)
    assert np.isnan(found[0])
    assert 0 < np.isnan(found).sum() < 300, "some pairs have no local score in common, others do"
