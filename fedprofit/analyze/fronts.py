"""What fronts and curves are worth, level by level.

A front is made of the settings of an algorithm that nothing beats on both axes; a curve is one setting
along its steps. Both are held against the base model's scores.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from fedprofit.analyze.curves import Curve, World
from fedprofit.analyze.statistics import (
    UNBOUNDED,
    Estimate,
    Floats,
    Indices,
    area_under,
    bootstrap,
    front,
    hypervolume,
    knee,
    worst_tenth,
)
from fedprofit.analyze.tradeoff import KEYS, label, with_one_best_round


@dataclass(frozen=True)
class Knee:
    """The setting on a front that lies farthest beyond the line between its ends."""

    setting: str
    local: float  # its scores
    kept: float
    worst: Estimate  # forgetting there: mean over the tenth of the clients that forget most


@dataclass(frozen=True)
class Front:
    """The front of one algorithm at one place on the study's axes, by one metric.

    Scores are means over clients and seeds, in the metric's own direction.
    """

    axes: dict[str, str]
    algorithm: str
    hypervolume: Estimate  # the area above and to the right of the base model's scores
    more: Estimate | None  # than the first algorithm's, over what both were scored at; None for that one
    settings: int  # on the front
    knee: Knee | None  # None where no setting lies beyond that line


def able_of(rows: Sequence[Mapping[str, Any]]) -> Indices:
    """Return the numbers of the rows that can be on a front: finite, and with all the units that any has.

    Args:
        rows: with `local`, `global`, and `clients`, the units behind them.
    """
    most = max((row["clients"] for row in rows), default=0)
    scores = np.array([[row["local"], row["global"]] for row in rows], dtype=float).reshape(-1, 2)
    whole = np.array([row["clients"] == most for row in rows], dtype=bool)
    return np.flatnonzero(np.isfinite(scores).all(axis=1) & whole)


def front_of(rows: Sequence[Mapping[str, Any]], sign: float) -> tuple[list[int], int]:
    """Return the numbers of the rows that no other beats on both axes, and of the knee among them.

    Args:
        rows: as for `able_of`, by which some take no part.
        sign: -1 where lower is better.

    Returns:
        No rows where none takes part; of rows with equal scores the first alone. -1 for the knee where none
        lies beyond the line between the ends; a row that beats all others is the knee itself.
    """
    points = sign * np.array([[row["global"], row["local"]] for row in rows], dtype=float).reshape(-1, 2)
    able = able_of(rows)
    # The same prompt may stand there twice, as the last round's and as the best one's.
    _, once = np.unique(points[able], axis=0, return_index=True)
    able = able[np.sort(once)]
    best = able[front(points[able])]
    at = knee(points[best, 0], points[best, 1]) if len(best) else -1
    return [int(number) for number in best], int(best[at]) if at >= 0 else -1


def fronts(table: pl.DataFrame, axes: Sequence[str], metric: str) -> Iterator[Front]:
    """Yield a front for each place on the axes, seeds aside, and algorithm, most heterogeneous first.

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
    """All that one algorithm's prompts were scored at, at one place on the axes."""

    parts: list[pl.DataFrame]  # a row for each unit, of `World.wide`

    @cached_property
    def means(self) -> list[dict[str, Any]]:
        """Rows for `front_of`."""
        return [
            {"local": part["local"].mean(), "global": part["global"].mean(), "clients": len(part)}
            for part in self.parts
        ]

    @cached_property
    def able(self) -> dict[tuple[Any, ...], pl.DataFrame]:
        """Those that can be on a front, by what they are called whatever the algorithm and its best round."""
        step = pl.when(pl.col("condition") != "federated").then(pl.col("step")).alias("step")
        parts = [self.parts[at] for at in able_of(self.means)]
        return {part.select("condition", "setting", "start", "alpha", step).row(0): part for part in parts}

    def points(self, world: World, also: "_Tuned | None" = None) -> Curve:
        """Return the scores of those that can be on a front; of those alone that can of another one too."""
        shared = self.able if also is None else also.able
        return world.scores([part for name, part in self.able.items() if name in shared])


def _volume(world: World, base: Curve, points: Curve, other: Curve | None = None) -> Estimate:
    """Estimate the area that an algorithm's settings dominate, or how much more it is than another's.

    Every resample has a front of its own, of all the settings.
    """
    own = np.flatnonzero(points.has & base.has & (True if other is None else other.has))
    below, every = base.of(own), [one.of(own) for one in (points, other) if one is not None]

    def volume(counts: Floats) -> Floats:
        corner = np.concatenate(below.mean(counts), axis=-1)
        areas = [hypervolume(np.stack(one.mean(counts), axis=-1), corner) for one in every]
        return areas[0] - sum(areas[1:])

    seeds = [world.seeds[unit] for unit in own]
    bounds = UNBOUNDED if other is not None else (0.0, np.inf)
    return bootstrap(volume, seeds, bounds=bounds, of_maxima=True)


def _knee(part: pl.DataFrame) -> Knee:
    # The federated prompt itself has forgotten nothing.
    worst = worst_tenth(part["forgetting"].fill_null(0.0).to_numpy(), part["seed"].to_list())
    local, kept = part.select(pl.col("local", "global").mean()).row(0)
    return Knee(label(part.row(0, named=True)), local, kept, worst)


@dataclass(frozen=True)
class Area:
    """What one setting's trade-off curve is worth at one place on the study's axes, by one metric."""

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
            area=bootstrap(
                _area(curve.of(own), base.of(own)),
                [world.seeds[unit] for unit in own],
                bounds=(0.0, np.inf),
                of_maxima=True,
            ),
        )


def _area(curve: Curve, base: Curve) -> Callable[[Floats], Floats]:
    """Return what is bootstrapped: the area under a mean curve, above the base model's mean."""

    def area(counts: Floats) -> Floats:
        local, kept = base.mean(counts)
        return area_under(*curve.mean(counts), (local[:, 0], kept[:, 0]))

    return area
