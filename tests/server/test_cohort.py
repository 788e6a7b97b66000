"""Cohorts: distinct, determined by seed and round, uniform, and cheap for any population."""

import tracemalloc
from collections import Counter
from collections.abc import Sequence

import pytest

from fedprofit.server.cohort import draw_cohort

CLIENTS = [f"client-{n}" for n in range(30)]


@pytest.mark.parametrize("size", [1, 5, 29])
def test_cohort_is_distinct_and_in_order(size):
    for number in range(20):
        cohort = draw_cohort(CLIENTS, size, 0, number)
        assert len(cohort) == len(set(cohort)) == size
        assert cohort == [client for client in CLIENTS if client in cohort]


@pytest.mark.parametrize("size", [30, 31, 10**6])
def test_cohort_is_all_clients_when_few(size):
    assert draw_cohort(CLIENTS, size, 0, 1) == CLIENTS
    assert draw_cohort([], size, 0, 1) == []


def test_cohort_depends_on_seed_and_round():
    drawn = {(s, r): tuple(draw_cohort(CLIENTS, 10, s, r)) for s in range(4) for r in range(10)}
    assert len(set(drawn.values())) == 40
    for (seed, number), cohort in reversed(drawn.items()):
        assert tuple(draw_cohort(CLIENTS, 10, seed, number)) == cohort


def test_cohort_is_uniform():
    rounds = 2000
    counts = Counter(client for r in range(rounds) for client in draw_cohort(CLIENTS, 6, 0, r))
    # Each count is binomial with mean 400 and standard deviation 18.
    assert len(counts) == 30
    assert all(abs(counts[client] - 400) < 4.5 * 18 for client in CLIENTS)
    pairs = Counter(tuple(draw_cohort(CLIENTS[:4], 2, 0, r)) for r in range(1200))
    assert len(pairs) == 6
    assert all(abs(count - 200) < 4.5 * 13 for count in pairs.values())


class Population(Sequence[str]):
    """A lazy sequence of a billion names; iterating over it is an error."""

    def __init__(self):
        self.asked = 0

    def __len__(self):
        return 10**9

    def __getitem__(self, position):
        self.asked += 1
        return f"client-{position:09d}"

    def __iter__(self):
        raise AssertionError("the complete population was iterated")


def test_cohort_cost_is_independent_of_population():
    population = Population()
    tracemalloc.start()
    cohort = draw_cohort(population, 100, 0, 1)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(set(cohort)) == 100
    assert population.asked == 100
    assert most < 200_000
    assert any(name >= "client-900000000" for name in cohort), "the end of the population is reached too"
    assert draw_cohort(range(10**9), 3, 0, 1) == sorted(draw_cohort(range(10**9), 3, 0, 1))
