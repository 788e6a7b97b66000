"""The paper's claims, read from a study's table: supported, not shown, or contradicted.

Every claim compares trade-off curves *at the same local score*. Personalization moves a prompt along its
steps, from the federated prompt on; local and global scores are means over test clients. Between two such
curves stands the mean difference of their global scores, taken where their local scores are equal, over
all local scores that both reach above their starts. It is positive where the claim says so.

A difference is averaged over the study's cells (heterogeneity, algorithm) that have both curves, and
bootstrapped over seeds and clients (see `evaluate/statistics.py`); its interval alone decides.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from fedprofit.evaluate.statistics import Estimate, Floats, Indices, bootstrap, kept_at
from fedprofit.evaluate.tradeoff import LOWER_IS_BETTER, by_client

Verdict = Literal["supported", "not shown", "contradicted", "not tested"]

SAYS = {
    "C1": "a small personalization rate with many steps keeps more of the global score than a large rate "
    "with few, at the same local score",
    "C2": "prompts trained by FedAvg with Adam keep more under personalization than those of FedAvg with SGD "
    "and of FedSGD, at the same local score",
    "C3": "with few local updates, an L2 pull to the federated prompt keeps more of the global score, at the "
    "same local score",
    "C4": "with few local updates, interpolating with the federated prompt keeps more of the global score, "
    "at the same local score",
    "C5": "the more heterogeneous the clients, the more is forgotten for the same local gain",
}


LEVELS = 11  # local scores at which two curves are compared
BETWEEN = "\x1f"  # an axis' value and the next, in a cell's name


@dataclass(frozen=True)
class Curve:
    """A trade-off curve: scores along the steps, for every unit (a test client of one seed).

    Higher is better in both scores, whatever the metric: losses are negated.
    """

    local: Floats  # [points, units]; NaN where a unit has no such curve
    kept: Floats  # [points, units]: global scores

    def mean(self, units: Indices) -> tuple[Floats, Floats]:
        """Average over some units: local and global scores, `[points]` each; NaN if none has the curve."""
        own = units[self.has[units]]
        if not len(own):
            return np.full(len(self.local), np.nan), np.full(len(self.local), np.nan)
        return self.local[:, own].mean(1), self.kept[:, own].mean(1)

    @cached_property
    def has(self) -> npt.NDArray[np.bool_]:
        """Tell which units have this curve, `[units]`."""
        has: npt.NDArray[np.bool_] = np.isfinite(np.concatenate([self.local, self.kept])).all(0)
        return has

    def from_start(self) -> "Curve":
        """Return the curve of gains, and of what is lost, relative to its first point."""
        return Curve(self.local - self.local[:1], self.kept - self.kept[:1])


@dataclass(frozen=True)
class Comparison:
    """Some curves against others: what the first keep more, at the same local scores."""

    what: str
    estimate: Estimate
    pairs: int  # cells that are averaged over


@dataclass(frozen=True)
class Finding:
    """A claim's verdict, and the comparisons that it follows from."""

    claim: str
    metric: str
    verdict: Verdict
    reason: str
    comparisons: list[Comparison]


class World:
    """All curves of a study by one metric, on the same units."""

    def __init__(self, table: pl.DataFrame, axes: Sequence[str], metric: str) -> None:
        """Spread the table into units and cells; `axes` are the study's, `table` has their columns."""
        self.axes = [axis for axis in axes if axis != "seed"]
        labels = table.select("run", "seed", "tv", *self.axes).unique()
        parts = []
        for (run,), own in table.filter(pl.col("metric") == metric).group_by("run", maintain_order=True):
            parts.append(by_client(own).with_columns(run=pl.lit(run)))
        wide = pl.concat(parts).join(labels.drop("seed"), on="run", maintain_order="left")
        cell = pl.concat_str([pl.lit(""), *(pl.col(axis) for axis in self.axes)], separator=BETWEEN)
        self.wide = wide.with_columns(cell=cell, sign=pl.lit(-1.0 if metric in LOWER_IS_BETTER else 1.0))
        units = self.wide.select("cell", "seed", "client").unique(maintain_order=True)
        self.units = units.with_row_index("unit")
        self.seeds: list[int] = self.units["seed"].to_list()
        self.wide = self.wide.join(self.units, on=["cell", "seed", "client"], maintain_order="left")

    def cells(self) -> list[str]:
        """Return the cells, from most to least heterogeneous."""
        found = (
            self.wide.group_by("cell").agg(pl.col("tv").mean()).sort("tv", "cell", descending=[True, False])
        )
        return list(found["cell"])

    def names(self, cell: str) -> list[str]:
        """Return a cell's values on the axes."""
        return cell.split(BETWEEN)[1:]

    def spread(self, cell: str) -> float:
        """Return a cell's heterogeneity: the mean distance of a client's task mix to the pool's."""
        return float(self.wide.filter(pl.col("cell") == cell)["tv"].mean())  # type: ignore[arg-type]

    def settings(self) -> list[dict[str, object]]:
        """Return every cell's personalization settings: algorithm, setting, start, rate, pull, last step."""
        keys = ["cell", "algorithm", "setting", "start", "rate", "pull"]
        tuned = self.wide.filter(pl.col("condition") == "personalized")
        last = tuned.group_by(keys, maintain_order=True).agg(pl.col("step").max(), pl.col("alpha").n_unique())
        return last.to_dicts()

    def along_steps(self, one: dict[str, object]) -> Curve:
        """Return a setting's curve along its steps."""
        return self._curve(self._of(one).filter(pl.col("alpha") == 1.0).sort("step"), "step", one)

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
        points = [before, *(part for _, part in rows.group_by(along, maintain_order=True))]
        scores = np.full((2, len(points), len(self.units)), np.nan)
        for j, part in enumerate(points):
            for i, scope in enumerate(("local", "global")):
                scores[i, j, part["unit"].to_numpy()] = (part[scope] * part["sign"]).to_numpy()
        return Curve(scores[0], scores[1])

    def compare(self, what: str, pairs: Sequence[tuple[Curve, Curve]]) -> Comparison:
        """Estimate what the first curves of the pairs keep more than the second."""

        def statistic(units: Indices) -> float:
            found = [between(first.mean(units), second.mean(units)) for first, second in pairs]
            told = [value for value in found if np.isfinite(value)]
            return float(np.mean(told)) if told else float("nan")

        behind = np.any([first.has | second.has for first, second in pairs], axis=0)
        own = np.flatnonzero(behind)
        estimate = bootstrap(lambda draw: statistic(own[draw]), [self.seeds[unit] for unit in own])
        return Comparison(what, estimate, len(pairs))


def between(first: tuple[Floats, Floats], second: tuple[Floats, Floats]) -> float:
    """Return how much more the first curve keeps, on the mean over the local scores that both reach.

    NaN if they reach none above where they start.

    >>> flat, steep = np.array([9.0, 9.0]), np.array([9.0, 5.0])
    >>> between((np.array([0.0, 1.0]), flat), (np.array([0.0, 1.0]), steep)) > 0
    True
    """
    low = max(first[0][0], second[0][0])
    high = min(first[0].max(), second[0].max())
    if not high > low:
        return float("nan")
    levels = np.linspace(low, high, LEVELS)[1:]
    return float((kept_at(*first, levels) - kept_at(*second, levels)).mean())


def check_claims(table: pl.DataFrame, axes: Sequence[str], metric: str) -> list[Finding]:
    """Read the verdict on each claim from a study's table, by one metric."""
    world = World(table, axes, metric)
    return [
        _finding("C1", metric, list(_rates(world)), needs_all=True),
        _finding("C2", metric, list(_algorithms(world)), needs_all=True),
        _finding("C3", metric, list(_pulls(world)), needs_all=False),
        _finding("C4", metric, list(_interpolations(world)), needs_all=True),
        _finding("C5", metric, list(_levels(world)), needs_all=True),
    ]


def _rates(world: World) -> Iterator[Comparison]:
    """The smallest against the largest rate, without pull, in every cell and algorithm."""
    groups: dict[tuple[object, ...], list[dict[str, object]]] = {}
    for one in world.settings():
        if one["pull"] == 0.0:
            groups.setdefault((one["cell"], one["algorithm"], one["start"]), []).append(one)
    pairs, rates = [], set()
    for members in groups.values():
        ordered = sorted(members, key=lambda one: (float(str(one["rate"])), -int(str(one["step"]))))
        if ordered[0]["rate"] != ordered[-1]["rate"]:
            rates.add((ordered[0]["rate"], ordered[-1]["rate"]))
            pairs.append((world.along_steps(ordered[0]), world.along_steps(ordered[-1])))
    if pairs:
        named = "; ".join(f"rate {low:g} against {high:g}" for low, high in sorted(rates))
        yield world.compare(named, pairs)


def _algorithms(world: World) -> Iterator[Comparison]:
    """FedAvg with Adam against each other algorithm, under the same personalization."""
    found = {(one["cell"], one["algorithm"], one["setting"], one["start"]): one for one in world.settings()}
    names = list(dict.fromkeys(str(key[1]) for key in found))
    adaptive = next((name for name in names if name.startswith("fedavg") and "adam" in name), None)
    for other in names:
        if adaptive is None or other == adaptive:
            continue
        pairs = []
        for (cell, algorithm, setting, start), one in found.items():
            against = found.get((cell, other, setting, start))
            if algorithm == adaptive and against is not None:
                pairs.append((world.along_steps(one), world.along_steps(against)))
        if pairs:
            yield world.compare(f"{adaptive} against {other}", pairs)


def _pulls(world: World) -> Iterator[Comparison]:
    """Each pull against none, at the same rate, steps, algorithm and cell."""
    keys = ("cell", "algorithm", "start", "rate", "step")
    plain = {tuple(one[key] for key in keys): one for one in world.settings() if one["pull"] == 0.0}
    pulls: dict[float, list[tuple[Curve, Curve]]] = {}
    for one in world.settings():
        against = plain.get(tuple(one[key] for key in keys))
        if one["pull"] and against is not None:
            pair = (world.along_steps(one), world.along_steps(against))
            pulls.setdefault(float(str(one["pull"])), []).append(pair)
    for pull, pairs in sorted(pulls.items()):
        yield world.compare(f"pull {pull:g} against none", pairs)


def _interpolations(world: World) -> Iterator[Comparison]:
    """Interpolation from the last step back, against the way along the steps."""
    pairs = [
        (world.along_alpha(one), world.along_steps(one))
        for one in world.settings()
        if int(str(one["alpha"])) > 1 and one["pull"] == 0.0
    ]
    if pairs:
        yield world.compare("interpolation against the steps", pairs)


def _levels(world: World) -> Iterator[Comparison]:
    """The most heterogeneous level against the least, by what is lost for the same gain."""
    cells = world.cells()
    high, low = cells[0], cells[-1]
    if world.spread(high) <= world.spread(low):
        return
    keys = ("algorithm", "setting", "start")
    least = {tuple(one[key] for key in keys): one for one in world.settings() if one["cell"] == low}
    pairs = []
    for one in world.settings():
        against = least.get(tuple(one[key] for key in keys))
        if one["cell"] == high and against is not None:
            # What the less heterogeneous keep more is what the more heterogeneous lose more.
            pairs.append((world.along_steps(against).from_start(), world.along_steps(one).from_start()))
    if pairs:
        names = [" ".join(world.names(cell)) for cell in (high, low)]
        yield world.compare(f"{names[0]} against {names[1]}", pairs)


def _finding(claim: str, metric: str, comparisons: list[Comparison], needs_all: bool) -> Finding:
    """Decide by the intervals' sides of zero.

    All must agree, or, where each is a way to do what the claim says, one must hold and none speak against.
    """

    def found(verdict: Verdict, reason: str) -> Finding:
        return Finding(claim, metric, verdict, reason, comparisons)

    if not comparisons:
        return found("not tested", "the study has nothing that the claim compares")
    told = [c.estimate for c in comparisons if np.isfinite(c.estimate.value)]
    if not told:
        return found("not shown", "the curves reach no local score in common above their starts")
    if needs_all and len(told) < len(comparisons):
        return found("not shown", "some curves reach no local score in common above their starts")
    if any(estimate.low is None for estimate in told):
        return found("not shown", "too few seeds or clients for an interval")
    signs = [estimate.sign for estimate in told]
    if set(signs) == {1} or (not needs_all and 1 in signs and -1 not in signs):
        return found("supported", "the interval lies above zero")
    if set(signs) == {-1} or (not needs_all and -1 in signs and 1 not in signs):
        return found("contradicted", "the interval lies below zero")
    return found("not shown", "an interval holds zero" if 0 in signs else "the comparisons disagree")
