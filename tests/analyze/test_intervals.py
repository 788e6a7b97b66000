"""Intervals against closed forms, loops over the drawn units, simulated coverage, and other libraries."""

import numpy as np
import pytest
import scipy.stats

from fedprofit.analyze.curve import ByTask, Curve
from fedprofit.analyze.draws import (
    CrossedWeights,
    UnitWeights,
    crossed,
    multinomial_variance,
    nested,
    nested_variance,
)
from fedprofit.analyze.intervals import estimate, holm, mean_of, quantile, worst_tenth

SEEDS = tuple([0] * 4 + [1] * 5 + [2] * 6)


def first_point(which):
    """Return the statistic that is a curve's local (0) or retained (1) score at its first point."""

    def make(curve):
        return lambda weights: weights.mean(curve)[which][:, 0]

    return make


def random_curve(draw, seeds=5, clients=6, tasks=6, effects=(1.0, 1.0, 1.0), truth=0.0):
    """One point a client: its own task's score, and the scores on all other tasks.

    Scores are the truth plus normal effects of the seed, the task and the client.
    """
    units = np.repeat(np.arange(seeds), clients)
    own = np.tile(np.arange(clients) % tasks, seeds)
    of_seed, of_task = draw.normal(0, effects[0], seeds), draw.normal(0, effects[1], tasks)
    noise = draw.normal(0, effects[2], (len(units), tasks))
    scores = truth + of_seed[units][:, None] + of_task + noise
    is_own = np.arange(tasks) == own[:, None]
    local, kept = np.where(is_own, scores, np.nan), np.where(is_own, np.nan, scores)
    by_task = ByTask(units, local[None], kept[None])
    return Curve(np.nanmean(local, 1)[None], np.nanmean(kept, 1)[None], by_task), units.tolist()


def test_nested_draws_seeds_and_then_clients_within_them():
    counts = nested(SEEDS, draws=4000).counts
    sizes = np.bincount(SEEDS)
    by_seed = np.stack([counts[:, np.array(SEEDS) == seed].sum(1) for seed in range(3)], 1) / sizes
    assert set(by_seed.ravel().tolist()) == {0.0, 1.0, 2.0, 3.0}, "a drawn seed draws all its clients"
    assert (by_seed.sum(1) == 3).all()
    assert by_seed.mean(0) == pytest.approx([1, 1, 1], abs=0.05)
    assert counts.max() > 3, "clients are drawn with replacement"
    assert (nested(SEEDS, draws=4000, number=0).counts == counts).all()
    assert (nested(SEEDS, draws=4000, number=1).counts != counts).any()


def test_known_variances_are_those_of_the_draws():
    draw = np.random.default_rng(0)
    influence = draw.normal(size=len(SEEDS))
    sums = nested(SEEDS, draws=200_000).counts @ influence
    assert nested_variance(influence, np.array(SEEDS)) == pytest.approx(sums.var(), rel=0.02)
    own = draw.normal(size=7)
    sums = crossed(3, 7, draws=200_000).tasks @ own
    assert multinomial_variance(own) == pytest.approx(sums.var(), rel=0.02)


def test_crossed_mean_matches_loop_over_units_and_tasks():
    draw = np.random.default_rng(1)
    curve, units = random_curve(draw, seeds=3, clients=5, tasks=4)
    tasks = curve.tasks
    weights = crossed(3, 4, draws=20)
    local, kept = weights.mean(curve)
    for number in range(20):
        seed, task = weights.seeds[number], weights.tasks[number]
        sums = np.zeros((2, 2))
        for unit, of in enumerate(units):
            own = np.flatnonzero(np.isfinite(tasks.local[0, unit]))
            others = np.flatnonzero(np.isfinite(tasks.kept[0, unit]))
            for a in own:
                weight = seed[of] * task[a] / len(own)
                sums[0] += [weight * tasks.local[0, unit, a], weight]
                for b in others:
                    both = weight * task[b] / len(others)
                    sums[1] += [both * tasks.kept[0, unit, b], both]
        expected = [total / weight if weight else np.nan for total, weight in sums]
        assert [local[number, 0], kept[number, 0]] == pytest.approx(expected, nan_ok=True)
    ones = CrossedWeights(np.ones((1, 3)), np.ones((1, 4)))
    plain = UnitWeights(np.ones((1, len(units))))
    for crossed_mean, unit_mean in zip(ones.mean(curve), plain.mean(curve), strict=True):
        assert crossed_mean == pytest.approx(unit_mean), "the sample itself"


def test_error_of_mean_matches_plain_resamples():
    draw = np.random.default_rng(3)
    values = draw.normal(0, 1, len(SEEDS)) + np.array(SEEDS)
    found = dict(mean_of(values, SEEDS).errors)
    rows = nested(SEEDS, draws=100_000, number=5).counts
    means = rows @ values / rows.sum(1)
    assert found["clients"] == pytest.approx(means.std(), rel=0.01)
    without = [np.delete(values, np.flatnonzero(np.array(SEEDS) == seed)).mean() for seed in range(3)]
    assert found["seeds"] == pytest.approx(np.sqrt(2 * np.var(without)))


@pytest.mark.parametrize("seeds", [3, 10])
def test_interval_hardly_depends_on_the_generator(seeds):
    """Over 20 generators, both ends differ by less than half a percent of the interval's width."""
    draw = np.random.default_rng(4)
    curve, units = random_curve(draw, seeds=seeds, clients=12, tasks=12)
    other, _ = random_curve(draw, seeds=seeds, clients=12, tasks=12)

    def difference(weights):
        return (curve.mean(weights)[1] - other.mean(weights)[1])[:, 0]

    found = [estimate(difference, units, tasks=12, number=number) for number in range(20)]
    width = found[0].high - found[0].low
    for end in ("low", "high"):
        ends = [getattr(one, end) for one in found]
        assert max(ends) - min(ends) < 0.005 * width


@pytest.mark.parametrize(
    "effects", [(1.0, 0.0, 0.5), (0.0, 1.0, 0.5), (0.7, 0.7, 0.7)], ids=["seeds", "tasks", "both"]
)
def test_intervals_cover_the_truth_under_crossed_effects(effects):
    """Of 200 studies, at least 90% of the intervals contain the truth: seeds, tasks and clients vary."""
    draw, covered = np.random.default_rng(0), 0
    for _ in range(200):
        curve, units = random_curve(draw, seeds=6, clients=8, tasks=8, effects=effects, truth=1.0)
        found = estimate(first_point(1)(curve), units, tasks=8, draws=500)
        covered += found.low <= 1.0 <= found.high
    assert covered >= 180


def test_ignoring_tasks_would_promise_too_much():
    draw, covered = np.random.default_rng(0), 0
    for _ in range(100):
        curve, units = random_curve(draw, seeds=6, clients=8, tasks=8, effects=(0.0, 1.0, 0.2), truth=1.0)
        found = estimate(first_point(1)(curve), units, draws=500)
        covered += found.low <= 1.0 <= found.high
    assert covered < 60


@pytest.mark.parametrize("seeds", [2, 3, 12])
@pytest.mark.parametrize("spread", [0.5, 1.0])
def test_intervals_cover_the_truth_for_few_seeds(seeds, spread):
    draw, covered, each = np.random.default_rng(0), 0, 8
    units = np.repeat(np.arange(seeds), each).tolist()
    for _ in range(100):
        values = 1.0 + np.repeat(draw.normal(0, spread, seeds), each) + draw.normal(0, 1, seeds * each)
        found = mean_of(values, units)
        covered += found.low <= 1.0 <= found.high
    assert covered >= 90


@pytest.mark.parametrize("clients", [6, 12, 40])
def test_interval_of_one_seed_matches_student_t(clients):
    values = np.random.default_rng(7).normal(0, 1, clients)
    found = mean_of(values, [0] * clients, least_seeds=1)
    half = scipy.stats.t.ppf(0.975, clients - 1) * values.std() / np.sqrt(clients)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.02)


def test_jackknife_matches_error_of_seed_means():
    means = np.array([0.0, 1.0, 3.0, 4.0])
    found = mean_of(np.repeat(means, 6), np.repeat(np.arange(4), 6).tolist())
    assert dict(found.errors)["seeds"] == pytest.approx(means.std(ddof=1) / 2)
    half = scipy.stats.t.ppf(0.975, 3) * means.std(ddof=1) / 2
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half)), "t over the seeds' means"


def test_probability_and_detectable_effect_are_students():
    found = mean_of(np.repeat([1.0, 2.0, 2.5, 4.0], 6), np.repeat(np.arange(4), 6).tolist())
    expected = scipy.stats.ttest_1samp([1.0, 2.0, 2.5, 4.0], 0).pvalue
    assert found.probability == pytest.approx(expected)
    assert (found.probability < 0.05) == (found.sign != 0)
    factor = quantile(0.975, 3) + quantile(0.8, 3)
    assert found.detectable == pytest.approx(factor * found.error)


def test_holm_equals_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    draw = np.random.default_rng(0)
    for count in (1, 2, 7):
        values = draw.random(count) ** 3
        assert holm(values) == pytest.approx(multitest.multipletests(values, method="holm")[1])


def test_best_of_several_is_lower_by_its_bias():
    """All are worth 0 in truth: the best of their means is above, and the interval allows for it."""
    draw, covered = np.random.default_rng(0), 0
    units = np.repeat(np.arange(3), 12).tolist()
    for _ in range(100):
        scores = np.repeat(draw.normal(0, 0.5, (3, 10)), 12, axis=0) + draw.normal(0, 1, (36, 10))

        def best(weights, scores=scores):
            return (weights.counts @ scores / weights.counts.sum(1, keepdims=True)).max(1)

        found = estimate(best, units, of_maxima=True, draws=500)
        assert found.low <= found.value <= found.high
        covered += found.low <= 0 <= found.high
    assert covered >= 85


def test_interval_stays_within_bounds():
    values = np.array([9.5, 10.0] * 12)
    found = mean_of(values, [0] * 12 + [1] * 12, bounds=(0, 9.8))
    assert found.high == 9.8
    assert found.low < found.value


@pytest.mark.parametrize("seeds", [[0] * 20, [0, 1], [0, 0, 1, 1, 1]])
def test_too_few_seeds_or_clients_give_no_interval(seeds):
    found = estimate(lambda weights: np.ones(len(weights.counts)), seeds)
    assert (found.value, found.low, found.high, found.sign) == (1.0, None, None, 0)
    assert (found.probability, found.detectable) == (1.0, None)
    assert "no interval" in str(found)


def test_statistic_that_is_often_undefined_gives_no_interval():
    found = estimate(
        lambda weights: np.where(weights.counts[:, 0] > 0, 1.0, np.nan), [0, 0, 0, 0, 1, 1, 1, 1]
    )
    assert found.low is None
    assert str(found) == "+1 (no interval: undefined in too many resamples; 8 clients of 2 seeds)"


def test_worst_tenth_is_that_of_each_resample():
    """Against the sorted list of the units that a resample contains."""
    seeds = [0] * 10 + [1] * 15
    lost = np.random.default_rng(0).normal(size=25)
    found = worst_tenth(lost, seeds)
    assert found.value == pytest.approx(np.sort(lost)[-3:].mean())
    assert found.low < found.value < found.high
    assert worst_tenth(np.arange(20.0), [0] * 20).value == 18.5
    assert worst_tenth(np.array([1.0, 5.0]), [0, 1]).value == 5
