"""What each algorithm's front is worth, level by level: the settings that nothing beats on both axes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from fedprofit.evaluate.statistics import front, hypervolume, knee, worst_tenth
from fedprofit.evaluate.tradeoff import KEYS, label
from fedprofit.study.curves import World


@dataclass(frozen=True)
class Front:
    """The front of one algorithm at one place on the study's axes, by one metric.

    Scores are means over clients and seeds, in the metric's own direction.
    """

    axes: dict[str, str]
    algorithm: str
    hypervolume: float  # the area above and to the right of the base model's scores
    settings: int  # on the front
    knee: str  # the setting on it that lies farthest from the line between its ends
    local: float  # the knee's scores
    kept: float
    worst: float  # forgetting at the knee: mean over the tenth of the clients that forget most


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
        tuned = own.filter(pl.col("algorithm") != "")
        for (algorithm,), mine in tuned.group_by("algorithm", maintain_order=True):
            grouped = mine.group_by(KEYS, maintain_order=True)
            rows = grouped.agg(pl.col("local", "global").mean(), pl.col("forgetting")).to_dicts()
            points = sign * np.array([[row["global"], row["local"]] for row in rows])
            best = front(points)
            at = int(best[knee(points[best, 0], points[best, 1])])
            chosen = rows[at]
            yield Front(
                axes=place,
                algorithm=str(algorithm),
                hypervolume=hypervolume(points, [sign * base[1], sign * base[0]]),
                settings=len(best),
                knee=label(chosen),
                local=chosen["local"],
                kept=chosen["global"],
                # The federated prompt itself has forgotten nothing.
                worst=worst_tenth(np.array([f or 0.0 for f in chosen["forgetting"]])),
            )
