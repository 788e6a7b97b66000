"""Geometry of the trade-off plane: fronts, areas, and curves read at a local score."""

from collections.abc import Sequence

import numpy as np

from fedprofit.analyze.curve import Floats, Indices


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
    # From the widest point on, each point adds its height above all wider ones.
    higher = np.diff(np.maximum.accumulate(height, axis=-1), axis=-1, prepend=0.0)
    area: Floats = (width * higher).sum(-1)
    return area


def area_under(local: Floats, kept: Floats, reference: tuple[Floats, Floats] | Sequence[float]) -> Floats:
    """Return the area under trade-off curves, above and to the right of a reference point.

    Args:
        local: `[..., points]`, along the steps; higher is better.
        kept: `[..., points]`, the retained scores.
        reference: a local and a retained score, numbers or `[...]` each, for example of the base model.

    Returns:
        `[...]`: the retained score above the reference's, integrated over local scores from the reference's
        to the curve's highest. At each local score, it is the retained score where the curve first reaches
        it; below the start, that of the start.

    >>> float(area_under(np.array([1.0, 3.0, 2.0]), np.array([4.0, 2.0, 0.0]), [0.0, 0.0]))
    10.0
    """
    x, y = local - np.asarray(reference[0])[..., None], kept - np.asarray(reference[1])[..., None]
    reach = np.maximum.accumulate(np.maximum(x, 0.0), axis=-1)
    width, step = np.diff(reach), np.diff(x)
    # A segment counts from the highest local score before it.
    skipped = np.divide(reach[..., :-1] - x[..., :-1], step, out=np.zeros_like(step), where=width > 0)
    enters, leaves = y[..., :-1] + skipped * np.diff(y), y[..., 1:]
    high, low = np.maximum(enters, leaves), np.minimum(enters, leaves)
    # The part of a segment above the reference: all of it, none, or a triangle.
    triangle = np.divide(high**2, 2 * (high - low), out=np.zeros_like(step), where=high > low)
    height = np.where(low >= 0, (high + low) / 2, np.where(high > 0, triangle, 0.0))
    area: Floats = reach[..., 0] * np.maximum(0.0, y[..., 0]) + (width * height).sum(-1)
    return area


def kept_at(local: Floats, kept: Floats, levels: Floats) -> Floats:
    """Return the retained scores of curves where their local scores first reach given levels.

    Args:
        local: `[..., points]`, along the steps; higher is better.
        kept: `[..., points]`, the retained scores.
        levels: `[..., levels]`, of the local score.

    Returns:
        `[..., levels]`. Linear between two points; NaN where a level is not reached.

    >>> kept_at(np.array([0.0, 2.0, 3.0]), np.array([10.0, 8.0, 4.0]), np.array([1.0, 3.0])).tolist()
    [9.0, 4.0]
    """
    points = local.shape[-1]
    best = np.maximum.accumulate(local, axis=-1)
    reached = (best[..., None, :] < levels[..., None]).sum(-1)
    last = np.minimum(reached, points - 1)
    before = np.maximum(last - 1, 0)
    x0, x1, y0, y1 = (
        np.take_along_axis(scores, point, axis=-1) for scores in (local, kept) for point in (before, last)
    )
    share = np.divide(levels - x0, x1 - x0, out=np.zeros_like(levels), where=(x1 > x0) & (last > 0))
    found = np.where(reached == 0, kept[..., :1], y0 + share * (y1 - y0))
    return np.where(reached < points, found, np.nan)


def knee(local: Floats, kept: Floats) -> int:
    """Return the number of the point farthest beyond the line between a front's ends (Branke et al. 2004).

    A single point is its own knee; -1 if no point is beyond that line.

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
