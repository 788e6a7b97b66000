"""Summaries for all reports: the conditions and their mean scores in each grid cell of a study."""

from collections import Counter
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import polars as pl

from fedprofit.analyze.facts import FACTS, SETTING_NAMES, agreed
from fedprofit.analyze.fronts import front_of
from fedprofit.analyze.intervals import mean_of, worst_tenth
from fedprofit.analyze.tables import Tables, place_of
from fedprofit.analyze.tradeoff import averaged, robustness_of, units_of
from fedprofit.evaluate.metric import metric_of
from fedprofit.evaluate.results import axis_column
from fedprofit.report.table import Means

DIFFERENCES = ("gain", "forgetting")
MAJORITY = "majority"  # the condition of the baseline


@dataclass(frozen=True)
class GridCell:
    """One cell of a study's grid, over all seeds. A run has one cell."""

    title: str  # "" for a run
    axes: dict[str, str]  # values by axis
    heterogeneity: float
    clients: int  # test clients, of all seeds
    seeds: int
    robustness: str  # the scope of the retained score
    # Rows of `averaged` with hyperparameters (FACTS), `front`, `knee`, `curve` (whether the row is a point of
    # its setting's curve), and interval ends of DIFFERENCES. `worst` is the mean forgetting over the tenth of
    # the clients that forget most, with its interval.
    rows: list[Means]
    units: pl.DataFrame  # of `units_of`

    def rows_by(self, metric: str) -> list[Means]:
        """Return the rows of one metric."""
        return [row for row in self.rows if row["metric"] == metric]

    def select(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of a table that belong to this cell."""
        return frame.filter(*(pl.col(axis_column(axis)) == value for axis, value in self.axes.items()))


def grid_cells(tables: Tables) -> list[GridCell]:
    """Return the grid cells of a run or study, the most heterogeneous first."""
    cells = []
    columns = [axis_column(axis) for axis in tables.axes]
    groups = tables.results.group_by(columns, maintain_order=True) if columns else [((), tables.results)]
    for _, scores in groups:
        first = scores.row(0, named=True)
        axes = {axis: str(first[axis_column(axis)]) for axis in tables.axes}
        tv = float(np.mean(scores["tv"].to_numpy()))
        cells.append(summarize_cell(scores, place_of(first, tables.axes), axes, tv))
    return sorted(cells, key=lambda cell: (-cell.heterogeneity, cell.title))


def summarize_cell(
    scores: pl.DataFrame,
    title: str = "",
    axes: dict[str, str] | None = None,
    heterogeneity: float = float("nan"),
) -> GridCell:
    """Summarize the scores of one grid cell."""
    units = units_of(scores)
    clients, seeds = len(units.select("seed", "client").unique()), scores["seed"].n_unique()
    robustness = robustness_of(scores)
    rows = _condition_rows(units, agreed(scores).to_dicts(), robustness)
    return GridCell(title, axes or {}, heterogeneity, clients, seeds, robustness, rows, units)


def _condition_rows(units: pl.DataFrame, facts: list[dict[str, Any]], robustness: str) -> list[Means]:
    known = {tuple(one[name] for name in SETTING_NAMES): {fact: one[fact] for fact in FACTS} for one in facts}
    unknown = dict.fromkeys(FACTS)
    rows = [
        {**row, "robustness": robustness, **known.get(tuple(row[name] for name in SETTING_NAMES), unknown)}
        for row in _drop_partial(averaged(units).to_dicts())
    ]
    return [_add_intervals(row, units) for row in _mark_fronts(_mark_curves(_add_skill(rows)))]


def _add_skill(rows: list[Means]) -> list[Means]:
    """Add the local and retained scores minus those of the majority label; None where there are none."""
    majority = {row["metric"]: row for row in rows if row["condition"] == MAJORITY}

    def skill(row: Means, score: str) -> float | None:
        base = majority.get(row["metric"])
        if base is None or row[score] is None or base[score] is None:
            return None
        return metric_of(row["metric"]).sign * float(row[score] - base[score])

    return [{**row, "skill": skill(row, "local"), "kept_skill": skill(row, "kept")} for row in rows]


def _mark_curves(rows: list[Means]) -> list[Means]:
    """Mark the points of each setting's curve.

    These are its numbered steps. If only the last step was scored, the best step is a point too; otherwise
    it is one of the numbered steps, a different one in each run.
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


def _drop_partial(rows: list[Means]) -> list[Means]:
    """Drop conditions that only some seeds have, such as text at the best step of only those seeds."""
    most: dict[str, int] = {}
    for row in rows:
        most[row["metric"]] = max(most.get(row["metric"], 0), row["clients"])
    return [row for row in rows if row["clients"] == most[row["metric"]]]


def _mark_fronts(rows: list[Means]) -> list[Means]:
    """Mark the Pareto front of each metric over both scores, and its knee."""
    for metric in {row["metric"] for row in rows}:
        sign = metric_of(metric).sign
        candidates = [row for row in rows if row["metric"] == metric and row["algorithm"]]
        best, middle = front_of(candidates, sign)
        for number, row in enumerate(candidates):
            row |= {"front": number in best, "knee": number == middle}
    return [{"front": False, "knee": False} | row for row in rows]


def _add_intervals(row: Means, units: pl.DataFrame) -> Means:
    """Add the interval ends of gain and forgetting, and `worst` with its interval; None if undefined.

    `worst` is the mean forgetting over the tenth of the clients that forget most.
    """
    members, ends = _units_of_row(row, units), dict[str, float | None]()
    for name in DIFFERENCES:
        values, low, high = members[name].to_numpy(), None, None
        if members[name].null_count() == 0 and np.isfinite(values).all():
            estimate = mean_of(values, members["seed"].to_list())
            low, high = estimate.low, estimate.high
        ends |= {f"{name}_low": low, f"{name}_high": high}
    lost = members.filter(pl.col("forgetting").is_not_null())
    worst = dict[str, float | None](worst=None, worst_low=None, worst_high=None)
    if len(lost) and np.isfinite(lost["forgetting"].to_numpy()).all():
        most = worst_tenth(lost["forgetting"].to_numpy(), lost["seed"].to_list())
        worst = {"worst": most.value, "worst_low": most.low, "worst_high": most.high}
    return {**row, **ends, **worst}


def _units_of_row(row: Means, units: pl.DataFrame) -> pl.DataFrame:
    """Return the units that a row averages."""
    keys = ("algorithm", "condition", "setting", "start", "alpha", "step", "metric")
    return units.filter(
        *(pl.col(key).is_null() if row[key] is None else pl.col(key) == row[key] for key in keys)
    )


def json_value(value: Any) -> Any:
    """Round a number to four decimals; return None for NaN and infinity, which JSON cannot hold.

    >>> json_value(1.23456), json_value(float("nan")), json_value("text")
    (1.2346, None, 'text')
    """
    if isinstance(value, float):
        return round(value, 4) if isfinite(value) else None
    return value
