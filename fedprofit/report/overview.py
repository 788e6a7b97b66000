"""What reports show, the same for a run and for a study: conditions and their means, place by place."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from fedprofit.evaluate.statistics import front, knee, worst_tenth
from fedprofit.evaluate.tradeoff import LOWER_IS_BETTER, by_client, summarize
from fedprofit.report.table import Row
from fedprofit.study.tables import Tables, place_of


@dataclass(frozen=True)
class Place:
    """One place on a study's axes, seeds aside; a run has one."""

    title: str  # "" for a run
    axes: dict[str, str]
    heterogeneity: float
    clients: int  # test clients, of all seeds
    seeds: int
    rows: list[Row]  # of `summarize`, with `front` and `knee`
    units: pl.DataFrame  # of `by_client`

    def of(self, metric: str) -> list[Row]:
        """Return the conditions by one metric."""
        return [row for row in self.rows if row["metric"] == metric]


def places(tables: Tables) -> list[Place]:
    """Return the places of a run or study, the most heterogeneous first."""
    found = []
    for _, own in tables.results.group_by(tables.axes or ["tv"], maintain_order=True):
        first = own.row(0, named=True)
        units = by_client(own)
        found.append(
            Place(
                place_of(first, tables.axes),
                {axis: str(first[axis]) for axis in tables.axes},
                float(np.mean(own["tv"].to_numpy())),
                len(units.select("seed", "client").unique()),
                own["seed"].n_unique(),
                _marked(summarize(own).to_dicts()),
                units,
            )
        )
    return sorted(found, key=lambda place: (-place.heterogeneity, place.title))


def _marked(rows: list[Row]) -> list[Row]:
    """Mark, by metric, the rows that no other beats on both axes, and the knee of that front."""
    for metric in {row["metric"] for row in rows}:
        sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        own = [row for row in rows if row["metric"] == metric and row["algorithm"]]
        points = sign * np.array([[row["global"], row["local"]] for row in own])
        finite = np.flatnonzero(np.isfinite(points).all(axis=1)) if own else np.zeros(0, np.int64)
        best = [int(finite[number]) for number in front(points[finite])] if len(finite) else []
        middle = best[knee(points[best, 0], points[best, 1])] if best else -1
        for number, row in enumerate(own):
            row |= {"front": number in best, "knee": number == middle}
    return [{"front": False, "knee": False} | row for row in rows]


def worst(place: Place, row: Row) -> float | None:
    """Return what the tenth of the clients that forget most lose; None where there is nothing to forget."""
    keys = ("algorithm", "condition", "setting", "start", "alpha", "step", "metric")
    same = [pl.col(key).is_null() if row[key] is None else pl.col(key) == row[key] for key in keys]
    found = place.units.filter(*same)["forgetting"].drop_nulls().to_numpy()
    return worst_tenth(found) if len(found) and np.isfinite(found).all() else None
