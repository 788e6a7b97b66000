"""What reports show, the same for a run and for a study: conditions and their means, place by place."""

from collections import Counter
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import polars as pl

from fedprofit.analyze.facts import FACTS, SETTING_NAMES, agreed
from fedprofit.analyze.fronts import front_of
from fedprofit.analyze.statistics import mean_of, worst_tenth
from fedprofit.analyze.tables import Tables, place_of
from fedprofit.analyze.tradeoff import averaged, units_of
from fedprofit.evaluate.metric import metric_of
from fedprofit.evaluate.results import axis_column
from fedprofit.report.table import Means

DIFFERENCES = ("gain", "forgetting")


@dataclass(frozen=True)
class Place:
    """One place on a study's axes, seeds aside; a run has one."""

    title: str  # "" for a run
    axes: dict[str, str]
    heterogeneity: float
    clients: int  # test clients, of all seeds
    seeds: int
    # Of `averaged`, with hyperparameters (FACTS), `front`, `knee`, `curve` (whether it is a point of its
    # setting's curve), the ends of the intervals of DIFFERENCES, and `worst`, the forgetting of the tenth of
    # the clients that forget most, with its own.
    rows: list[Means]
    units: pl.DataFrame  # of `units_of`

    def of(self, metric: str) -> list[Means]:
        """Return the conditions by one metric."""
        return [row for row in self.rows if row["metric"] == metric]

    def within(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of a table that lie at this place."""
        return frame.filter(*(pl.col(axis_column(axis)) == value for axis, value in self.axes.items()))


def places(tables: Tables) -> list[Place]:
    """Return the places of a run or study, the most heterogeneous first."""
    found = []
    columns = [axis_column(axis) for axis in tables.axes]
    groups = tables.results.group_by(columns, maintain_order=True) if columns else [((), tables.results)]
    for _, own in groups:
        first = own.row(0, named=True)
        axes = {axis: str(first[axis_column(axis)]) for axis in tables.axes}
        tv = float(np.mean(own["tv"].to_numpy()))
        found.append(place_of_scores(own, place_of(first, tables.axes), axes, tv))
    return sorted(found, key=lambda place: (-place.heterogeneity, place.title))


def place_of_scores(
    scores: pl.DataFrame,
    title: str = "",
    axes: dict[str, str] | None = None,
    heterogeneity: float = float("nan"),
) -> Place:
    """Summarize the scores of one place."""
    units = units_of(scores)
    clients, seeds = len(units.select("seed", "client").unique()), scores["seed"].n_unique()
    rows = _rows(units, agreed(scores).to_dicts())
    return Place(title, axes or {}, heterogeneity, clients, seeds, rows, units)


def _rows(units: pl.DataFrame, facts: list[dict[str, Any]]) -> list[Means]:
    known = {tuple(one[name] for name in SETTING_NAMES): {fact: one[fact] for fact in FACTS} for one in facts}
    unknown = dict.fromkeys(FACTS)
    rows = [
        {**row, **known.get(tuple(row[name] for name in SETTING_NAMES), unknown)}
        for row in _of_all_seeds(averaged(units).to_dicts())
    ]
    return [_with_intervals(row, units) for row in _marked(_on_curves(rows))]


def _on_curves(rows: list[Means]) -> list[Means]:
    """Mark the points of each setting's curve: its steps, and the best one where there is but the last.

    Where there are more, the best step is one of them, of each run another.
    """
    keys = ("metric", "algorithm", "setting", "start")

    def is_tuned(row: Means) -> bool:
        return bool(row["condition"] == "personalized" and row["alpha"] == 1.0)

    def setting(row: Means) -> tuple[Any, ...]:
        return tuple(row[key] for key in keys)

    steps = Counter(setting(row) for row in rows if is_tuned(row) and row["step"] is not None)

    def is_point(row: Means) -> bool:
        return is_tuned(row) and (row["step"] is not None or steps[setting(row)] == 1)

    return [row | {"curve": is_point(row)} for row in rows]


def _of_all_seeds(rows: list[Means]) -> list[Means]:
    """Leave out what only some of the seeds have: text at a step that is best in them alone."""
    most: dict[str, int] = {}
    for row in rows:
        most[row["metric"]] = max(most.get(row["metric"], 0), row["clients"])
    return [row for row in rows if row["clients"] == most[row["metric"]]]


def _marked(rows: list[Means]) -> list[Means]:
    """Mark, by metric, the rows that no other beats on both axes, and the knee of that front."""
    for metric in {row["metric"] for row in rows}:
        sign = metric_of(metric).sign
        own = [row for row in rows if row["metric"] == metric and row["algorithm"]]
        best, middle = front_of(own, sign)
        for number, row in enumerate(own):
            row |= {"front": number in best, "knee": number == middle}
    return [{"front": False, "knee": False} | row for row in rows]


def _with_intervals(row: Means, units: pl.DataFrame) -> Means:
    """Add the ends of the intervals of what is gained and forgotten, and what those forget who forget most.

    None where there is none; the last, with its interval, is of the tenth of the clients that forget most.
    """
    own, ends = _behind(row, units), dict[str, float | None]()
    for name in DIFFERENCES:
        values, low, high = own[name].to_numpy(), None, None
        if own[name].null_count() == 0 and np.isfinite(values).all():
            found = mean_of(values, own["seed"].to_list())
            low, high = found.low, found.high
        ends |= {f"{name}_low": low, f"{name}_high": high}
    lost = own.filter(pl.col("forgetting").is_not_null())
    worst = dict[str, float | None](worst=None, worst_low=None, worst_high=None)
    if len(lost) and np.isfinite(lost["forgetting"].to_numpy()).all():
        most = worst_tenth(lost["forgetting"].to_numpy(), lost["seed"].to_list())
        worst = {"worst": most.value, "worst_low": most.low, "worst_high": most.high}
    return {**row, **ends, **worst}


def _behind(row: Means, units: pl.DataFrame) -> pl.DataFrame:
    """Return the units whose mean a row is."""
    keys = ("algorithm", "condition", "setting", "start", "alpha", "step", "metric")
    return units.filter(
        *(pl.col(key).is_null() if row[key] is None else pl.col(key) == row[key] for key in keys)
    )


def plain(value: Any) -> Any:
    """Round a number for showing; JSON knows no NaN.

    >>> plain(1.23456), plain(float("nan")), plain("text")
    (1.2346, None, 'text')
    """
    if isinstance(value, float):
        return round(value, 4) if isfinite(value) else None
    return value
