"""Recommend a setting: select it on the validation clients, and check it on the test clients.

Every scored prompt is an option: the federated ones, and the personalized ones by algorithm, setting, step
and alpha. Among those within the limit, the best on the other axis is selected. Gain and forgetting are
relative to one federated prompt, the one with the best retained score: relative to its own start, a poor
algorithm would have little to forget. The expected scores are those of the validation clients. Selection
makes them slightly too good. The test clients do not take part in the selection.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite

import numpy as np
import polars as pl

from fedprofit.analyze.curves import World, on_common_scopes
from fedprofit.analyze.facts import PROXIMAL, TUNING_RATE
from fedprofit.analyze.intervals import UNBOUNDED, Estimate, mean_of
from fedprofit.analyze.tables import Tables
from fedprofit.analyze.tradeoff import KEPT, KEYS, label, with_one_best_round
from fedprofit.core.errors import UserError
from fedprofit.evaluate.metric import in_order, metric_of
from fedprofit.evaluate.results import LOCAL

SCORES = ("local", "kept", "gain", "forgetting")


@dataclass(frozen=True)
class Limit:
    """A limit on one axis: exactly one of the two fields.

    Raises:
        UserError: none or both are given, or the limit is not finite.
    """

    most_forgotten: float | None = None  # of the retained score (a loss: nats)
    least_local: float | None = None  # local score; a loss: the largest allowed

    def __post_init__(self) -> None:
        if (self.most_forgotten is None) == (self.least_local is None):
            raise UserError("give either --max-forgetting or --min-local: the other axis is optimized.")
        given = self.least_local if self.most_forgotten is None else self.most_forgotten
        if given is not None and not isfinite(given):
            raise UserError(f"a limit of {given}: give --max-forgetting or --min-local a finite number.")

    def excess(self, local: float, forgetting: float, sign: float) -> float:
        """Return the excess over the limit; zero or negative within it."""
        if self.most_forgotten is not None:
            return forgetting - self.most_forgotten
        assert self.least_local is not None
        return sign * (self.least_local - local)

    def merit(self, local: float, forgetting: float, sign: float) -> float:
        """Return the value of a setting on the other axis; higher is better."""
        return -forgetting if self.most_forgotten is None else sign * local


@dataclass(frozen=True)
class Recommendation:
    """A setting, its scores on the validation clients, and those on the test clients."""

    axes: dict[str, str]
    setting: dict[str, object]  # the columns of the table that identify it, and its hyperparameters
    against: str  # the federated prompt that gain and forgetting are relative to
    options: int
    within: int  # options within the limit
    robustness: str  # the scope of the retained score: others, or global
    expected: dict[str, Estimate]  # by score, on the validation clients
    tested: dict[str, Estimate]
    holds: bool  # whether the test clients' mean is within the limit
    certain: bool  # whether their complete interval agrees; false without an interval

    @property
    def name(self) -> str:
        """The setting in words."""
        return label(self.setting)

    @property
    def values(self) -> dict[str, float]:
        """The hyperparameters: rate, steps, weights of the proximal term (λ) and the personal prompt (α)."""
        if self.setting["condition"] == "federated":
            return {}
        names = {TUNING_RATE: "rate", "step": "steps", PROXIMAL: "λ", "alpha": "α"}
        values = {name: self.setting.get(key) for key, name in names.items()}
        return {name: value for name, value in values.items() if isinstance(value, int | float)}


@dataclass(frozen=True)
class NoneWithin:
    """A grid cell in which no option is within the limit, and why."""

    axes: dict[str, str]
    reason: str


def recommend(tables: Tables, metric: str, limit: Limit) -> Iterator[Recommendation | NoneWithin]:
    """Yield a recommendation for each grid cell, then the cells without one. A run is a single cell.

    Raises:
        UserError: no validation clients were personalized, or no cell has an option within the limit.
    """
    if tables.validation is None:
        raise UserError(
            f"{tables.path}: no validation clients were personalized, and test clients must not select. "
            "Run with evaluation.validation=true and data.clients.validation above 0."
        )
    scored = in_order(tables.validation["metric"].unique())
    if metric not in scored:
        raise UserError(
            f"{tables.path}: the validation clients were not scored by {metric!r}, so it cannot select. "
            f"Use --metric {' or '.join(scored)}."
        )
    chooses, tests = on_common_scopes([tables.validation, tables.results], tables.axes, metric)
    found = [_choice(tables, chooses, tests, cell, limit) for cell in chooses.cells()]
    without = [one for one in found if isinstance(one, NoneWithin)]
    if len(without) == len(found):
        raise UserError("\n".join(one.reason for one in without))
    yield from (one for one in found if isinstance(one, Recommendation))
    yield from without


def _choice(
    tables: Tables, chooses: World, tests: World, cell: str, limit: Limit
) -> Recommendation | NoneWithin:
    """Select in one grid cell by the validation clients, and check by the test clients."""
    place = dict(zip(chooses.axes, chooses.names(cell), strict=True))
    checks = {_key(one): one for one in _prompts(tests, cell)}
    # Text is scored at each group's own best step. A setting without test scores is no option.
    prompts = [one for one in _prompts(chooses, cell) if _finite(one) and _key(one) in checks]
    federated = [one for one in prompts if one["condition"][0] == "federated"]
    if not federated:
        return NoneWithin(place, _no_start(tables, place))
    sign = float(federated[0]["sign"][0])
    start = max(federated, key=lambda one: sign * _mean(one, "kept"))
    options = [_compared(one, start, sign) for one in prompts]
    means = [(_mean(one, "local"), _mean(one, "forgetting")) for one in options]
    excess = [limit.excess(*scores, sign) for scores in means]
    within = [number for number, over in enumerate(excess) if over <= 0]
    if not within:
        return NoneWithin(place, _none_within(tables, place, options, means, excess))
    chosen = options[max(within, key=lambda number: limit.merit(*means[number], sign))]
    tested = _estimates(tests, _compared(checks[_key(chosen)], checks[_key(start)], sign))
    over = [limit.excess(*ends, sign) for ends in _means_and_ends(tested)]
    names = dict(zip(KEYS, _key(chosen), strict=True))
    return Recommendation(
        place,
        {**names, **chooses.facts_of(cell, names)},
        label(dict(zip(KEYS, _key(start), strict=True))),
        len(options),
        len(within),
        chooses.robustness[cell],
        _estimates(chooses, chosen),
        tested,
        holds=over[0] <= 0,
        certain=len(over) == 3 and len({each <= 0 for each in over}) == 1,
    )


def _no_start(tables: Tables, place: dict[str, str]) -> str:
    return (
        f"{tables.path}{_where(place)}: no federated prompt has finite scores for all validation clients, so "
        "nothing can be selected."
    )


def _prompts(world: World, cell: str) -> list[pl.DataFrame]:
    """Return all options, each with a row for every unit, in the same order."""
    prompts = pl.col("condition").is_in(["federated", "personalized"])
    own = with_one_best_round(world.wide.filter(pl.col("cell") == cell, prompts))
    own = own.sort("unit", maintain_order=True)
    found = [part for _, part in own.group_by(KEYS, maintain_order=True)]
    units = max((len(part) for part in found), default=0)
    return [part for part in found if len(part) == units]


def _compared(one: pl.DataFrame, start: pl.DataFrame, sign: float) -> pl.DataFrame:
    """Compute a prompt's gain and forgetting relative to another, unit by unit."""
    return one.with_columns(
        gain=sign * (one["local"] - start["local"]), forgetting=sign * (start["kept"] - one["kept"])
    )


def _key(rows: pl.DataFrame) -> tuple[object, ...]:
    return rows.select(KEYS).row(0)


def _finite(rows: pl.DataFrame) -> bool:
    return all(rows.select(pl.col("local", "kept").is_finite().all()).row(0))


def _mean(rows: pl.DataFrame, score: str) -> float:
    return float(rows[score].to_numpy().mean())


def _estimates(world: World, rows: pl.DataFrame) -> dict[str, Estimate]:
    """Estimate a prompt's scores; those of a metric stay within its bounds."""
    bounds = metric_of(rows["metric"][0]).bounds
    seeds = [world.seeds[unit] for unit in rows["unit"].to_list()]
    return {
        score: mean_of(rows[score].to_numpy(), seeds, bounds=bounds if score in (LOCAL, KEPT) else UNBOUNDED)
        for score in SCORES
    }


def _means_and_ends(scores: dict[str, Estimate]) -> list[tuple[float, float]]:
    """Return the means of local score and forgetting and, if both have intervals, the intervals' ends."""
    local, forgetting = scores["local"], scores["forgetting"]
    if local.low is None or local.high is None or forgetting.low is None or forgetting.high is None:
        return [(local.value, forgetting.value)]
    return [(local.value, forgetting.value), (local.low, forgetting.low), (local.high, forgetting.high)]


def _where(place: dict[str, str]) -> str:
    return "".join(f", {axis} {value}" for axis, value in place.items())


def _none_within(
    tables: Tables,
    place: dict[str, str],
    options: list[pl.DataFrame],
    means: list[tuple[float, float]],
    excess: list[float],
) -> str:
    nearest = int(np.argmin(excess))
    local, forgetting = means[nearest]
    what = label({key: options[nearest][key][0] for key in KEYS})
    return (
        f"{tables.path}{_where(place)}: none of {len(options)} options is within the limit. The nearest "
        f"is {what}: local score {local:.3g}, forgetting {forgetting:.3g}. Loosen the limit to that, or tune "
        "further."
    )
