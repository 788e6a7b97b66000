"""What fronts and curves are worth, level by level.

A front is made of the settings of an algorithm that nothing beats on both axes; a curve is one setting
along its steps. Both are held against the base model's scores.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from fedprofit.analyze.curves import Curve, World
from fedprofit.evaluate.statistics import (
    Estimate,
    Floats,
    area_under,
    bootstrap,
    front,
    hypervolume,
    knee,
    worst_tenth,
)
from fedprofit.evaluate.tradeoff import KEYS, label, with_one_best_round


@dataclass(frozen=True)
class Knee:
    """The setting on a front that lies farthest beyond the line between its ends."""

    setting: str
    local: float  # its scores
    kept: float
    worst: float  # forgetting there: mean over the tenth of the clients that forget most


@dataclass(frozen=True)
class Front:
    """The front of one algorithm at one place on the study's axes, by one metric.

    Scores are means over clients and seeds, in the metric's own direction.
    """

    axes: dict[str, str]
    algorithm: str
    hypervolume: float  # the area above and to the right of the base model's scores
    settings: int  # on the front
    knee: Knee | None  # None where no setting lies beyond that line


def front_of(rows: Sequence[Mapping[str, Any]], sign: float) -> tuple[list[int], int]:
    """Return the numbers of the rows that no other beats on both axes, and of the knee among them.

    Args:
        rows: with `local`, `global`, and `clients`, the units behind them. Rows that are not finite, or that
            only some of the seeds have, take no part.
        sign: -1 where lower is better.

    Returns:
        No rows where none takes part; of rows with equal scores the first alone. -1 for the knee where none
        lies beyond the line between the ends; a row that beats all others is the knee itself.
    """
    most = max((row["clients"] for row in rows), default=0)
    points = sign * np.array([[row["global"], row["local"]] for row in rows], dtype=float).reshape(-1, 2)
    whole = np.array([row["clients"] == most for row in rows], dtype=bool)
    able = np.flatnonzero(np.isfinite(points).all(axis=1) & whole)
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
        sign = float(own["sign"][0])
        base = own.filter(pl.col("condition") == "base").select("local", "global").mean().row(0)
        place = dict(zip(world.axes, world.names(cell), strict=True))
        tuned = with_one_best_round(own.filter(pl.col("algorithm") != ""))
        for (algorithm,), mine in tuned.group_by("algorithm", maintain_order=True):
            grouped = mine.group_by(KEYS, maintain_order=True)
            rows = grouped.agg(
                pl.col("local", "global").mean(), pl.col("forgetting"), pl.len().alias("clients")
            ).to_dicts()
            best, at = front_of(rows, sign)
            if not best:
                continue
            points = sign * np.array([[rows[number]["global"], rows[number]["local"]] for number in best])
            yield Front(
                axes=place,
                algorithm=str(algorithm),
                hypervolume=hypervolume(points, [sign * base[1], sign * base[0]]),
                settings=len(best),
                knee=_knee(rows[at]) if at >= 0 else None,
            )


def _knee(row: Mapping[str, Any]) -> Knee:
    # The federated prompt itself has forgotten nothing.
    worst = worst_tenth(np.array([forgotten or 0.0 for forgotten in row["forgetting"]]))
    return Knee(label(dict(row)), row["local"], row["global"], worst)


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
            area=bootstrap(_area(curve.of(own), base.of(own)), [world.seeds[unit] for unit in own]),
        )


def _area(curve: Curve, base: Curve) -> Callable[[Floats], Floats]:
    """Return what is bootstrapped: the area under a mean curve, above the base model's mean."""

    def area(counts: Floats) -> Floats:
        local, kept = base.mean(counts)
        return area_under(*curve.mean(counts), (local[:, 0], kept[:, 0]))

    return area
