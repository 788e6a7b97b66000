"""Intervals and fronts against closed forms, brute force and known coverage."""

from itertools import product
from math import ceil

import numpy as np
import pytest
import scipy.stats

from fedprofit.analyze import statistics
from fedprofit.analyze.statistics import (
    bootstrap,
    front,
    hypervolume,
    kept_at,
    knee,
    mean_of,
    resamples,
    resamples_within,
    widening,
    worst_tenth,
)


def test_resamples_draw_seeds_and_then_clients_within_them():
    counts = resamples((0,) * 4 + (1,) * 4 + (2,) * 4, draws=400)
    assert counts.shape == (400, 12)
    assert (counts.sum(1) == 12).all()
    by_seed = counts.reshape(400, 3, 4).sum(2)
    assert set(by_seed.flatten().tolist()) == {0, 4, 8, 12}, "seeds come whole"
    assert by_seed.mean(0) == pytest.approx([4, 4, 4], abs=0.5)
    assert any((counts[:, :4].max(1) > 1) & (by_seed[:, 0] == 4)), "clients within a seed are drawn too"
    resamples.cache_clear()
    assert (resamples((0,) * 4 + (1,) * 4 + (2,) * 4, draws=400) == counts).all()


def test_an_estimate_of_a_mean_is_that_of_a_loop_over_the_drawn_units():
    draw = np.random.default_rng(3)
    values, seeds = draw.normal(0, 1, 18), [0] * 5 + [1] * 6 + [2] * 7
    drawn = [np.repeat(np.arange(18), row.astype(int)) for row in resamples(tuple(seeds))]
    means = np.array([values[units].mean() for units in drawn])
    low, high = np.quantile(means, [0.025, 0.975])
    inside = np.array([values @ row / 18 for row in resamples_within(tuple(seeds))])
    wider, mean = widening(means, inside, 3, 18), values.mean()
    found = mean_of(values, seeds)
    expected = (mean, mean + wider * (low - mean), mean + wider * (high - mean))
    assert (found.value, found.low, found.high) == pytest.approx(expected)


@pytest.mark.parametrize("seeds", [2, 3, 6])
def test_of_few_seeds_that_differ_a_means_interval_is_students(seeds):
    """As wide as that of t over the means of the seeds, which holds the truth as often as it says."""
    each = 200
    values = np.random.default_rng(5).normal(0, 1, (seeds, each)) + 2 * np.linspace(-1, 1, seeds)[:, None]
    found = mean_of(values.ravel(), np.repeat(np.arange(seeds), each).tolist())
    means = values.mean(1)
    width = 2 * scipy.stats.t.ppf(0.975, seeds - 1) * means.std(ddof=1) / np.sqrt(seeds)
    # The percentiles of few seeds' resamples are not those of a normal distribution: its shape is kept.
    assert found.high - found.low == pytest.approx(width, rel=0.3)
    draws = [
        draw(tuple(np.repeat(np.arange(seeds), each).tolist())) for draw in (resamples, resamples_within)
    ]
    total, within = (counts @ values.ravel() / (seeds * each) for counts in draws)
    expected = (
        scipy.stats.t.ppf(0.975, seeds - 1) / 1.959964 * means.std(ddof=1) / np.sqrt(seeds) / total.std()
    )
    assert widening(total, within, seeds, seeds * each) == pytest.approx(expected, rel=0.05)


def test_seeds_that_do_not_differ_widen_nothing():
    found = np.random.default_rng(6).normal(0, 1, 100)
    assert widening(found, found, 3, 36) == widening(np.zeros(100), np.zeros(100), 3, 36) == 1.0


@pytest.mark.parametrize("clients", [6, 12, 40])
def test_of_a_single_seed_a_means_interval_is_students_over_its_clients(clients):
    values = np.random.default_rng(7).normal(0, 1, clients)
    found = mean_of(values, [0] * clients, least_seeds=1)
    width = 2 * scipy.stats.t.ppf(0.975, clients - 1) * values.std(ddof=1) / np.sqrt(clients)
    assert found.high - found.low == pytest.approx(width, rel=0.1)


def test_the_best_of_several_is_as_uncertain_as_which_it_is():
    """Two settings, each worth 10 in one seed and 0 in the other: 5, or 10 where a seed is drawn twice."""
    seeds, scores = [0] * 6 + [1] * 6, np.array([[10.0] * 6 + [0.0] * 6, [0.0] * 6 + [10.0] * 6])

    def best(counts):
        return (counts @ scores.T / counts.sum(1, keepdims=True)).max(1)

    found = bootstrap(best, seeds, of_maxima=True)
    assert found.value == 5
    assert found.low < 0 < 10 < found.high
    within = bootstrap(best, seeds, of_maxima=True, bounds=(0, 10))
    assert (within.low, within.high) == (0, 10)


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_the_best_of_ten_that_are_equally_good_is_no_better_than_they_are(spread):
    """All are worth 0 in truth: the best of their means is above, and the interval must know it."""
    draw, held = np.random.default_rng(0), 0
    units = np.repeat(np.arange(3), 12).tolist()
    for _ in range(100):
        scores = np.repeat(draw.normal(0, spread, (3, 10)), 12, axis=0) + draw.normal(0, 1, (36, 10))
        found = bootstrap(lambda counts, s=scores: (counts @ s / 36).max(1), units, of_maxima=True)
        assert found.low <= found.value <= found.high
        held += found.low <= 0 <= found.high
    assert held >= 85


def test_what_is_rarely_reached_has_an_interval_all_the_same():
    """In few resamples their mean is above zero, so that the mean of what is above exceeds most of them."""
    values = np.array([-4.0, -3, -2, -1, 1, 2] * 2)
    found = bootstrap(
        lambda counts: np.maximum(0, counts @ values / 12),
        [0] * 6 + [1] * 6,
        bounds=(0, np.inf),
        of_maxima=True,
    )
    assert 0 == found.low == found.value <= found.high


def test_within_a_seed_an_interval_is_that_of_scipy():
    values = np.random.default_rng(4).normal(0, 1, 40)
    found = mean_of(values, [0] * 40, least_seeds=1)
    theirs = scipy.stats.bootstrap((values,), np.mean, method="percentile", random_state=0)
    assert [found.low, found.high] == pytest.approx(list(theirs.confidence_interval), abs=0.04)


@pytest.mark.parametrize("seeds", [2, 3, 12])
@pytest.mark.parametrize("spread", [0.5, 1.0])
def test_intervals_cover_what_they_should(seeds, spread):
    """Seeds and clients both vary; of 100 intervals no fewer than 90 hold the truth."""
    draw, held, each = np.random.default_rng(0), 0, 8
    units = np.repeat(np.arange(seeds), each).tolist()
    for _ in range(100):
        values = 1.0 + np.repeat(draw.normal(0, spread, seeds), each) + draw.normal(0, 1, seeds * each)
        found = mean_of(values, units)
        held += found.low <= 1.0 <= found.high
    assert held >= 90


def test_ignoring_seeds_would_promise_too_much():
    draw = np.random.default_rng(1)
    values = np.repeat(draw.normal(0, 1, 8), 10) + draw.normal(0, 0.1, 80)

    def width(seeds):
        found = mean_of(values, seeds)
        return found.high - found.low

    assert width(np.repeat(np.arange(8), 10).tolist()) > 2 * width(np.arange(80).tolist())


@pytest.mark.parametrize("seeds", [[0] * 20, [0, 1], [0, 0, 1, 1, 1]])
def test_too_few_seeds_or_clients_give_no_interval(seeds):
    found = bootstrap(lambda counts: np.ones(len(counts)), seeds)
    assert (found.value, found.low, found.high, found.sign) == (1.0, None, None, 0)
    assert "no interval" in str(found)


def test_a_statistic_that_often_cannot_tell_gives_no_interval():
    found = bootstrap(lambda counts: np.where(counts[:, 0] > 0, 1.0, np.nan), [0, 0, 0, 0, 1, 1, 1, 1])
    assert found.low is None
    assert str(found) == "+1 (no interval: too many resamples cannot tell; 8 clients of 2 seeds)"


def test_front_and_hypervolume_equal_brute_force():
    draw = np.random.default_rng(2)
    for _ in range(20):
        points = draw.integers(0, 8, (9, 2)).astype(float)
        beaten = [any((q >= p).all() and (q > p).any() for q in points) for p in points]
        assert front(points).tolist() == [j for j, lost in enumerate(beaten) if not lost]
        # The area on a grid of unit squares, above and to the right of (1, 1).
        squares = sum(
            any((p >= (x + 1, y + 1)).all() for p in points) for x, y in product(range(1, 8), repeat=2)
        )
        assert hypervolume(points, [1, 1]) == pytest.approx(squares)
    stacks, corners = draw.normal(0, 2, (5, 9, 2)), draw.normal(0, 1, (5, 2))
    one_by_one = [hypervolume(*each) for each in zip(stacks, corners, strict=True)]
    assert hypervolume(stacks, corners) == pytest.approx(one_by_one)


def test_what_is_kept_is_read_where_the_level_is_first_reached():
    local, kept = np.array([0.0, 4.0, 2.0, 6.0]), np.array([10.0, 8.0, 0.0, 4.0])
    found = kept_at(local, kept, np.array([-1.0, 0.0, 2.0, 4.0, 5.0, 6.0, 7.0]))
    # At 2 it is read on the way up, not on the way down.
    assert found[:-1].tolist() == [10, 10, 9, 8, 3, 4]
    assert np.isnan(found[-1])
    again = np.array([5.0, 5.0, 6.0])
    assert kept_at(again, np.array([3.0, 2.0, 1.0]), np.array([5.0, 5.5])).tolist() == [3, 1.5]


def test_knee_and_worst_tenth():
    angle = np.linspace(0, np.pi / 2, 9)
    assert knee(np.cos(angle), np.sin(angle)) == 4
    assert worst_tenth(np.arange(20.0), [0] * 20).value == 18.5
    assert worst_tenth(np.array([1.0, 5.0]), [0, 1]).value == 5


def test_the_worst_tenth_is_that_of_each_resample(monkeypatch):
    """Against the sorted list of the units that a resample holds: of two seeds, ten and fifteen clients."""
    seeds = [0] * 10 + [1] * 15
    lost = np.random.default_rng(0).normal(size=25)
    found = worst_tenth(lost, seeds)
    assert found.low < found.value < found.high
    monkeypatch.setattr(statistics, "bootstrap", lambda statistic, *_, **__: statistic)
    drawn = resamples(tuple(seeds), draws=50)
    expected = []
    for counts in drawn:
        units = np.sort(np.repeat(lost, counts.astype(int)))
        expected.append(units[-ceil(len(units) / 10) :].mean())
    assert worst_tenth(lost, seeds)(drawn) == pytest.approx(expected)
