"""A study's trade-off curves, unit by unit, and what one keeps more than another at the same local score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import numpy as np
import numpy.typing as npt
import polars as pl

from fedprofit.analyze.facts import FACTS, SETTING_NAMES, agreed
from fedprofit.analyze.statistics import (
    Estimate,
    Floats,
    Indices,
    bootstrap,
    counted,
    kept_at,
    resamples,
)
from fedprofit.analyze.tradeoff import by_client, with_best_step
from fedprofit.evaluate.metric import metric_of
from fedprofit.evaluate.results import axis_column

LEVELS = 11  # local scores at which two curves are compared
LEAST_SPREAD = 0.01  # of heterogeneity, between levels that count as different
BETWEEN = "\x1f"  # an axis' value and the next, in a cell's name


@dataclass(frozen=True)
class Curve:
    """A trade-off curve: scores along the steps, for every unit (a test client of one seed).

    Higher is better in both scores, whatever the metric: losses are negated.
    """

    local: Floats  # [points, units]; NaN where a unit has no such curve
    kept: Floats  # [points, units]: global scores

    def of(self, units: Indices) -> "Curve":
        """Return the curve of some units alone."""
        return Curve(self.local[:, units], self.kept[:, units])

    def mean(self, counts: Floats) -> tuple[Floats, Floats]:
        """Average over units: local and global scores, `[draws, points]` each.

        Args:
            counts: how often each unit counts, `[draws, units]`. A draw in which none has the curve is NaN.
        """
        own = counts[:, self.has]
        total = own.sum(1, keepdims=True)
        local, kept = (
            np.divide(
                own @ scores[:, self.has].T,
                total,
                out=np.full((len(own), len(scores)), np.nan),
                where=total > 0,
            )
            for scores in (self.local, self.kept)
        )
        return local, kept

    @cached_property
    def has(self) -> npt.NDArray[np.bool_]:
        """Tell which units have this curve, `[units]`."""
        has: npt.NDArray[np.bool_] = np.isfinite(np.concatenate([self.local, self.kept])).all(0)
        return has

    def beside(self, other: "Curve") -> "Curve":
        """Return the curve of those units that have the other one too; all of it where none can.

        A unit that diverged on one of two curves says nothing of the difference. Curves of different places
        on the axes have no unit in common.
        """
        both = self.has & other.has
        return self.where(both) if both.any() else self

    def where(self, units: npt.NDArray[np.bool_]) -> "Curve":
        """Return the curve as if other units did not have it."""
        return Curve(np.where(units, self.local, np.nan), np.where(units, self.kept, np.nan))

    def from_start(self) -> "Curve":
        """Return the curve of gains, and of what is lost, relative to its first point."""
        return Curve(self.local - self.local[:1], self.kept - self.kept[:1])


@dataclass(frozen=True)
class Comparison:
    """Some curves against others: what the first keep more, at the same local scores."""

    what: str
    estimate: Estimate
    told: int  # pairs of curves that are averaged over
    pairs: int  # all pairs that the study has
    unsteady: int = 0  # pairs left out since too many resamples cannot compare them
    straight: int = 0  # of those averaged over: a curve is known at its ends alone, a straight line between
    blind: int = 0  # pairs left out since one is known at its ends alone, where that tells nothing

    def __str__(self) -> str:
        estimate = self.estimate
        # Without an interval, the estimate itself says how many clients are too few.
        behind = "" if estimate.low is None and np.isfinite(estimate.value) else f"; {counted(estimate)}"
        notes = [f"{self.straight} by their ends alone"] * bool(self.straight)
        notes += [f"{self.unsteady} more unsteady"] * bool(self.unsteady)
        notes += [f"{self.blind} without a step between"] * bool(self.blind)
        noted = f" ({', '.join(notes)})" if notes else ""
        return f"{self.what}: {estimate}{behind}; {self.told} of {self.pairs} pairs of curves{noted}"


class World:
    """All curves of a study by one metric, on the same units."""

    def __init__(self, table: pl.DataFrame, axes: Sequence[str], metric: str) -> None:
        """Spread the table into units and cells; `axes` are the study's, `table` has their columns."""
        self.axes = [axis for axis in axes if axis != "seed"]
        columns = [axis_column(axis) for axis in self.axes]
        labels = table.select("run", "seed", "tv", *columns).unique()
        parts = []
        for (run,), own in table.filter(pl.col("metric") == metric).group_by("run", maintain_order=True):
            parts.append(by_client(own).with_columns(run=pl.lit(run)))
        found = with_best_step(pl.concat(parts), table, "run", columns)
        wide = found.join(labels.drop("seed"), on="run", maintain_order="left")
        cell = pl.concat_str([pl.lit(""), *map(pl.col, columns)], separator=BETWEEN)
        self.wide = wide.with_columns(cell=cell, sign=pl.lit(metric_of(metric).sign))
        units = self.wide.select("cell", "seed", "client").unique(maintain_order=True)
        self.units = units.with_row_index("unit")
        self.seeds: list[int] = self.units["seed"].to_list()
        self.wide = self.wide.join(self.units, on=["cell", "seed", "client"], maintain_order="left")
        cells = self.wide.select("run", "cell").unique(maintain_order=True)
        self.facts = agreed(table.join(cells, on="run", maintain_order="left"), ["cell"])

    def cells(self) -> list[str]:
        """Return the cells, from most to least heterogeneous."""
        found = (
            self.wide.group_by("cell").agg(pl.col("tv").mean()).sort("tv", "cell", descending=[True, False])
        )
        return list(found["cell"])

    def extremes(self) -> list[tuple[str, str, str]]:
        """Return pairs of cells that differ on one axis alone: the most and the least heterogeneous there.

        Each with what it is called: "task against iid". No pair where heterogeneity hardly differs.
        """
        found, cells = [], self.cells()
        for number in range(len(self.axes)):
            groups: dict[tuple[str, ...], list[str]] = {}
            for cell in cells:
                names = self.names(cell)
                groups.setdefault((*names[:number], *names[number + 1 :]), []).append(cell)
            for same in groups.values():
                high, low = same[0], same[-1]
                if self._more_spread(high, low) >= LEAST_SPREAD:
                    title = " against ".join(self.names(cell)[number] for cell in (high, low))
                    found.append((high, low, title))
        return found

    def names(self, cell: str) -> list[str]:
        """Return a cell's values on the axes."""
        return cell.split(BETWEEN)[1:]

    def _more_spread(self, high: str, low: str) -> float:
        """Return how much more heterogeneous one cell is than another, over the seeds that both have.

        Heterogeneity is the mean distance of a client's task mix to the pool's; it differs by seed too.
        """
        by_seed = [
            dict(
                self.wide.filter(pl.col("cell") == cell).group_by("seed").agg(pl.col("tv").mean()).iter_rows()
            )
            for cell in (high, low)
        ]
        shared = by_seed[0].keys() & by_seed[1].keys()
        return fmean(by_seed[0][seed] - by_seed[1][seed] for seed in shared) if shared else 0.0

    def settings(self) -> list[dict[str, object]]:
        """Return every cell's personalization settings: names, FACTS, last step and number of alphas."""
        keys = ["cell", *SETTING_NAMES]
        tuned = self.wide.filter(pl.col("condition") == "personalized")
        last = tuned.group_by(keys, maintain_order=True).agg(pl.col("step").max(), pl.col("alpha").n_unique())
        return last.join(self.facts, on=keys, how="left", maintain_order="left").to_dicts()

    def facts_of(self, cell: str, names: Mapping[str, object]) -> dict[str, object]:
        """Return the facts of a cell's setting, by its names; none where nothing is personalized."""
        same = [pl.col(name) == names[name] for name in SETTING_NAMES]
        found = self.facts.filter(pl.col("cell") == cell, *same).select(FACTS).to_dicts()
        return found[0] if found else {}

    def along_steps(self, one: dict[str, object]) -> Curve:
        """Return a setting's curve along its steps.

        Text is scored at the last step and at each run's best one. That is a point of its own, on the way to
        the last, unless it is the last everywhere; where each step is scored, it is one of them.
        """
        rows = self._of(one).filter(pl.col("alpha") == 1.0)
        numbered, best = (rows.filter(pl.col("step").is_null() == is_best) for is_best in (False, True))
        whole = numbered.group_by("step").len()["len"]
        if (whole == whole.max()).sum() > 1 or (best["at"] == one["step"]).all():
            rows = numbered
        order = pl.col("step").fill_null(pl.col("step").max() - 0.5)
        return self._curve(rows.sort(order), "step", one)

    def along_alpha(self, one: dict[str, object]) -> Curve:
        """Return a setting's curve from the federated prompt to its last step, by interpolation."""
        return self._curve(self._of(one).filter(pl.col("step") == one["step"]).sort("alpha"), "alpha", one)

    def _of(self, one: dict[str, object]) -> pl.DataFrame:
        keys = ("cell", "algorithm", "setting", "start")
        same = [pl.col(key) == one[key] for key in keys]
        return self.wide.filter(pl.col("condition") == "personalized", *same)

    def _curve(self, rows: pl.DataFrame, along: str, one: dict[str, object]) -> Curve:
        before = self.wide.filter(
            pl.col("condition") == "federated",
            pl.col("cell") == one["cell"],
            pl.col("algorithm") == one["algorithm"],
            pl.col("setting") == one["start"],
        )
        points = [part for _, part in rows.group_by(along, maintain_order=True)]
        # A point that only some seeds have is no mean over all.
        most = max((len(part) for part in points), default=0)
        return self.scores([before, *(part for part in points if len(part) == most)])

    def in_same_seeds(self, first: Curve, second: Curve) -> tuple[Curve, Curve]:
        """Return two curves of different places on the seeds that both have, as in a study not yet whole."""
        seeds = np.array(self.seeds)
        both = np.intersect1d(seeds[first.has], seeds[second.has])
        return first.where(np.isin(seeds, both)), second.where(np.isin(seeds, both))

    def base(self, cell: str) -> Curve:
        """Return the base model's scores, as a curve of one point."""
        return self.scores([self.wide.filter(pl.col("condition") == "base", pl.col("cell") == cell)])

    def scores(self, points: Sequence[pl.DataFrame]) -> Curve:
        """Spread each point's rows, of `wide`, over the units."""
        scores = np.full((2, len(points), len(self.units)), np.nan)
        for j, part in enumerate(points):
            for i, scope in enumerate(("local", "global")):
                scores[i, j, part["unit"].to_numpy()] = (part[scope] * part["sign"]).to_numpy()
        return Curve(scores[0], scores[1])

    def compare(self, what: str, pairs: Sequence[tuple[Curve, Curve]], blind: int = 0) -> Comparison:
        """Estimate what the first curves of the pairs keep more than the second.

        Averaged are the pairs that can be compared on all units, and, all of them at once, in all but a
        twentieth of the resamples: the steadiest, as many as that holds for. So every resample averages the
        same pairs. The interval takes it as given which these are. Where even the steadiest pair fails too
        often, all that can be compared are averaged, without an interval.

        Args:
            what: what is compared with what.
            pairs: two curves each.
            blind: pairs that were left out beforehand, to be counted.
        """
        pairs = [(first.beside(second), second.beside(first)) for first, second in pairs]
        everyone = np.ones((1, len(self.units)))
        able = self._steadiest_first([pair for pair in pairs if np.isfinite(_kept_more(pair, everyone)[0])])
        used, estimate = able, self._estimate(able, pairs)
        while estimate.unsteady and len(used) > 1:
            used, estimate = used[:-1], self._estimate(used[:-1], pairs)
        if estimate.low is None:  # fewer pairs tell no more than all
            used, estimate = able, self._estimate(able, pairs)
        straight = sum(min(len(first.local), len(second.local)) < 3 for first, second in used)
        return Comparison(
            what, estimate, len(used), len(pairs) + blind, len(able) - len(used), straight, blind
        )

    def _estimate(
        self, pairs: Sequence[tuple[Curve, Curve]], every: Sequence[tuple[Curve, Curve]]
    ) -> Estimate:
        """Estimate the mean over pairs; without any, nothing, over the units of every pair that there is."""
        own = self._behind(pairs or every)
        of_own = [(first.of(own), second.of(own)) for first, second in pairs]

        def statistic(counts: Floats) -> Floats:
            found = np.array([_kept_more(pair, counts) for pair in of_own]).reshape(-1, len(counts))
            return found.mean(0) if len(found) else np.full(len(counts), np.nan)

        return bootstrap(statistic, [self.seeds[unit] for unit in own])

    def _behind(self, pairs: Sequence[tuple[Curve, Curve]]) -> Indices:
        """Return the units that have any of the curves."""
        return np.flatnonzero(np.any([first.has | second.has for first, second in pairs], axis=0))

    def _steadiest_first(self, pairs: Sequence[tuple[Curve, Curve]]) -> list[tuple[Curve, Curve]]:
        """Order pairs by how many resamples of their units cannot compare them."""

        def failed(pair: tuple[Curve, Curve]) -> float:
            own = self._behind([pair])
            counts = resamples(tuple(self.seeds[unit] for unit in own))
            return float(np.isnan(_kept_more((pair[0].of(own), pair[1].of(own)), counts)).mean())

        return sorted(pairs, key=failed)


def _kept_more(pair: tuple[Curve, Curve], counts: Floats) -> Floats:
    first, second = pair
    return between(first.mean(counts), second.mean(counts))


def between(first: tuple[Floats, Floats], second: tuple[Floats, Floats]) -> Floats:
    """Return how much more the first curves keep, on the mean over the local scores that both reach.

    Args:
        first: local and global scores, `[draws, points]` each.
        second: likewise; it may have other points.

    Returns:
        `[draws]`; NaN where they reach no local score in common above where they start.

    >>> steps, flat, steep = np.array([[0.0, 1.0]]), np.array([[9.0, 9.0]]), np.array([[9.0, 5.0]])
    >>> bool(between((steps, flat), (steps, steep))[0] > 0)
    True
    """
    low = np.maximum(first[0][:, 0], second[0][:, 0])
    high = np.minimum(first[0].max(1), second[0].max(1))
    levels = np.linspace(low, high, LEVELS, axis=1)[:, 1:]
    more = (kept_at(*first, levels) - kept_at(*second, levels)).mean(1)
    return np.where(high > low, more, np.nan)
