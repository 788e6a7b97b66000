"""Areas of fronts and curves, by grid cell.

A front contains the settings of an algorithm that no other beats on both axes. A curve is a setting along its
steps. Areas are above and to the right of the base model's scores.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from fedprofit.analyze.curve import Curve, Floats, Indices, Weights
from fedprofit.analyze.curves import World
from fedprofit.analyze.geometry import area_under, front, hypervolume, knee
from fedprofit.analyze.intervals import UNBOUNDED, Estimate, Statistic, estimate, worst_tenth
from fedprofit.analyze.tradeoff import KEYS, label, with_one_best_round


@dataclass(frozen=True)
class Knee:
    """The setting on a front that is farthest beyond the line between its ends."""

    setting: str
    local: float  # its scores
    kept: float
    worst: Estimate  # forgetting there: mean over the tenth of the clients that forget most


@dataclass(frozen=True)
class Front:
    """The front of one algorithm in one grid cell, by one metric.

    Scores are means over clients and seeds, in the metric's own direction.
    """

    axes: dict[str, str]
    algorithm: str
    hypervolume: Estimate  # the area above and to the right of the base model's scores
    more: Estimate | None  # difference to the first algorithm's, over shared settings; None for the first
    settings: int  # on the front
    knee: Knee | None  # None if no setting is beyond the line between the ends


def eligible_of(rows: Sequence[Mapping[str, Any]]) -> Indices:
    """Return the numbers of the rows that can be on a front: finite, and averaged over all units.

    Args:
        rows: with `local`, `kept`, and `clients`, the number of units.
    """
    most = max((row["clients"] for row in rows), default=0)
    scores = np.array([[row["local"], row["kept"]] for row in rows], dtype=float).reshape(-1, 2)
    complete = np.array([row["clients"] == most for row in rows], dtype=bool)
    return np.flatnonzero(np.isfinite(scores).all(axis=1) & complete)


def front_of(rows: Sequence[Mapping[str, Any]], sign: float) -> tuple[list[int], int]:
    """Return the numbers of the rows that no other beats on both axes, and of the knee among them.

    Args:
        rows: as for `eligible_of`, which leaves some out.
        sign: -1 where lower is better.

    Returns:
        The first of rows with equal scores. The knee is -1 if no row is beyond the line between the ends; a
        row that beats all others is the knee itself.
    """
    points = sign * np.array([[row["kept"], row["local"]] for row in rows], dtype=float).reshape(-1, 2)
    eligible = eligible_of(rows)
    # The same prompt may occur twice, as the last round's and as the best one's.
    _, once = np.unique(points[eligible], axis=0, return_index=True)
    eligible = eligible[np.sort(once)]
    best = eligible[front(points[eligible])]
    at = knee(points[best, 0], points[best, 1]) if len(best) else -1
    return [int(number) for number in best], int(best[at]) if at >= 0 else -1


def fronts(table: pl.DataFrame, axes: Sequence[str], metric: str) -> Iterator[Front]:
    """Yield a front for each grid cell and algorithm, most heterogeneous first.

    Args:
        table: a study's table (see `ledger.py`).
        axes: its axes.
        metric: one of those in the table.
    """
    world = World(table, axes, metric)
    for cell in world.cells():
        own = world.wide.filter(pl.col("cell") == cell)
        base, sign = world.base(cell), float(own["sign"][0])
        place = dict(zip(world.axes, world.names(cell), strict=True))
        first: _Tuned | None = None
        tuned = with_one_best_round(own.filter(pl.col("algorithm") != ""))
        for (algorithm,), mine in tuned.group_by("algorithm", maintain_order=True):
            scored = _Tuned([part for _, part in mine.group_by(KEYS, maintain_order=True)])
            best, at = front_of(scored.means, sign)
            if not best:
                continue
            more = None
            if first is not None:
                more = _volume(world, base, scored.points(world, first), first.points(world, scored))
            first = first or scored
            yield Front(
                axes=place,
                algorithm=str(algorithm),
                hypervolume=_volume(world, base, scored.points(world)),
                more=more,
                settings=len(best),
                knee=_knee(scored.parts[at]) if at >= 0 else None,
            )


@dataclass(frozen=True)
class _Tuned:
    """All scored settings of one algorithm in one grid cell."""

    parts: list[pl.DataFrame]  # a row for each unit, of `World.wide`

    @cached_property
    def means(self) -> list[dict[str, Any]]:
        """Rows for `front_of`."""
        return [
            {"local": part["local"].mean(), "kept": part["kept"].mean(), "clients": len(part)}
            for part in self.parts
        ]

    @cached_property
    def eligible(self) -> dict[tuple[Any, ...], pl.DataFrame]:
        """Settings that can be on a front, by their names without algorithm and best round."""
        step = pl.when(pl.col("condition") != "federated").then(pl.col("step")).alias("step")
        parts = [self.parts[at] for at in eligible_of(self.means)]
        return {part.select("condition", "setting", "start", "alpha", step).row(0): part for part in parts}

    def points(self, world: World, also: "_Tuned | None" = None) -> Curve:
        """Return the scores of settings that can be on a front; only those shared with `also`, if given."""
        shared = self.eligible if also is None else also.eligible
        return world.scores([part for name, part in self.eligible.items() if name in shared])


def _volume(world: World, base: Curve, points: Curve, other: Curve | None = None) -> Estimate:
    """Estimate the area that an algorithm's settings dominate, or how much more it is than another's.

    Every resample has its own front, of all settings.
    """
    own = np.flatnonzero(points.has & base.has & (True if other is None else other.has))
    below, every = base.of(own), [one.of(own) for one in (points, other) if one is not None]

    def volume(weights: Weights) -> Floats:
        corner = np.concatenate(below.mean(weights), axis=-1)
        areas = [hypervolume(np.stack(one.mean(weights), axis=-1), corner) for one in every]
        return areas[0] - sum(areas[1:])

    seeds = [world.seeds[unit] for unit in own]
    bounds = UNBOUNDED if other is not None else (0.0, np.inf)
    return estimate(volume, seeds, bounds=bounds, of_maxima=True)


def _knee(part: pl.DataFrame) -> Knee:
    # The federated prompt itself has forgotten nothing.
    worst = worst_tenth(part["forgetting"].fill_null(0.0).to_numpy(), part["seed"].to_list())
    local, kept = part.select(pl.col("local", "kept").mean()).row(0)
    return Knee(label(part.row(0, named=True)), local, kept, worst)


@dataclass(frozen=True)
class Area:
    """The area under one setting's trade-off curve in one grid cell, by one metric."""

    axes: dict[str, str]
    algorithm: str
    setting: str
    steps: int
    area: Estimate  # under the curve, above and to the right of the base model's scores


def areas(table: pl.DataFrame, axes: Sequence[str], metric: str) -> Iterator[Area]:
    """Yield the area under each setting's curve; arguments and order as for `fronts`."""
    world = World(table, axes, metric)
    order = {cell: number for number, cell in enumerate(world.cells())}
    for one in sorted(world.settings(), key=lambda one: order[str(one["cell"])]):
        cell = str(one["cell"])
        curve, base = world.along_steps(one), world.base(cell)
        own = np.flatnonzero(curve.has & base.has)

        yield Area(
            axes=dict(zip(world.axes, world.names(cell), strict=True)),
            algorithm=str(one["algorithm"]),
            setting=str(one["setting"]),
            steps=int(str(one["step"])),
            area=estimate(
                _area(curve.of(own), base.of(own)),
                [world.seeds[unit] for unit in own],
                bounds=(0.0, np.inf),
                of_maxima=True,
            ),
        )


def _area(curve: Curve, base: Curve) -> Statistic:
    """Return the statistic: the area under a mean curve, above the base model's mean."""

    def area(weights: Weights) -> Floats:
        local, kept = base.mean(weights)
        return area_under(*curve.mean(weights), (local[:, 0], kept[:, 0]))

    return area
