"""Geometry of the trade-off plane against brute force."""

from itertools import product

import numpy as np
import pytest

from fedprofit.analyze.geometry import front, hypervolume, kept_at, knee


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


def test_kept_at_reads_first_crossing_of_level():
    local, kept = np.array([0.0, 4.0, 2.0, 6.0]), np.array([10.0, 8.0, 0.0, 4.0])
    found = kept_at(local, kept, np.array([-1.0, 0.0, 2.0, 4.0, 5.0, 6.0, 7.0]))
    assert found[:-1].tolist() == [10, 10, 9, 8, 3, 4], "at 2 on the way up, not down"
    assert np.isnan(found[-1])
    flat = np.array([5.0, 5.0, 6.0])
    assert kept_at(flat, np.array([3.0, 2.0, 1.0]), np.array([5.0, 5.5])).tolist() == [3, 1.5]


def test_knee_of_an_arc_is_its_middle():
    angle = np.linspace(0, np.pi / 2, 9)
    assert knee(np.cos(angle), np.sin(angle)) == 4
