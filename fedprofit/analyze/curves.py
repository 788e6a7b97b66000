"""All trade-off curves of a study by one metric, on the same units."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

import numpy as np
import polars as pl

from fedprofit.analyze.curve import ByTask, Curve, Floats
from fedprofit.analyze.facts import FACTS, SETTING_NAMES, agreed
from fedprofit.analyze.tradeoff import KEPT, by_client, robustness_of, with_best_step
from fedprofit.evaluate.metric import metric_of
from fedprofit.evaluate.results import GLOBAL, LOCAL, OTHERS, TASK, axis_column

LEAST_SPREAD = 0.01  # minimum difference in heterogeneity between two levels
BETWEEN = "\x1f"  # separates the axis values in the name of a cell
CONDITION = ["run", "algorithm", "condition", "setting", "start", "alpha", "step"]

Setting = dict[str, object]  # names, FACTS, last step and number of alphas of a personalization


class World:
    """All curves of a study by one metric, on the same units."""

    def __init__(
        self,
        table: pl.DataFrame,
        axes: Sequence[str],
        metric: str,
        robustness: Mapping[str, str] | None = None,
    ) -> None:
        """Spread a table into units and grid cells.

        Args:
            table: a study's results.
            axes: its axes; `table` has their columns.
            metric: one of those in the table.
            robustness: the scope of the retained score, by cell; by default that of `robustness_of`.
        """
        self.axes = [axis for axis in axes if axis != "seed"]
        columns = [axis_column(axis) for axis in self.axes]
        cell = pl.concat_str([pl.lit(""), *map(pl.col, columns)], separator=BETWEEN).alias("cell")
        table = table.with_columns(cell)
        self.robustness = {
            str(name): (robustness or {}).get(str(name)) or robustness_of(own)
            for (name,), own in table.group_by("cell", maintain_order=True)
        }
        labels = table.select("run", "tv", "cell").unique()
        parts = []
        for (run, name), own in table.filter(pl.col("metric") == metric).group_by(
            "run", "cell", maintain_order=True
        ):
            parts.append(by_client(own, self.robustness[str(name)]).with_columns(run=pl.lit(run)))
        found = with_best_step(pl.concat(parts), table, "run", columns)
        wide = found.join(labels, on="run", maintain_order="left")
        self.wide = wide.with_columns(sign=pl.lit(metric_of(metric).sign))
        units = self.wide.select("cell", "seed", "client").unique(maintain_order=True)
        self.units = units.with_row_index("unit")
        self.seeds: list[int] = self.units["seed"].to_list()
        self.wide = self.wide.join(self.units, on=["cell", "seed", "client"], maintain_order="left")
        self.facts = agreed(table, ["cell"])
        self._by_task = self._task_scores(table.filter(pl.col("metric") == metric))
        self.tasks = sorted(self._by_task["task"].unique())

    def _task_scores(self, table: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of single tasks, with their unit and whether they are of the retained scope."""
        kept = pl.col("cell").replace_strict(self.robustness, return_dtype=pl.String) + TASK
        parts = table.with_columns(is_kept=pl.col("scope") == kept, is_local=pl.col("scope") == LOCAL + TASK)
        parts = parts.filter(pl.col("is_kept") | pl.col("is_local"))
        return parts.join(self.units, on=["cell", "seed", "client"]).select(
            *CONDITION, "unit", "task", "is_kept", pl.col("value") * self.wide["sign"][0]
        )

    def cells(self) -> list[str]:
        """Return the cells, from most to least heterogeneous."""
        means = self.wide.group_by("cell").agg(pl.col("tv").mean())
        return list(means.sort("tv", "cell", descending=[True, False])["cell"])

    def extremes(self) -> Iterator[tuple[str, str, str]]:
        """Yield the most and the least heterogeneous of the cells that differ on one axis only, and a title.

        Compared cells have the same scope of the retained score, and differ in heterogeneity by at least
        `LEAST_SPREAD`. The title names the axis values: "task against iid".
        """
        cells = self.cells()
        for number in range(len(self.axes)):
            groups: dict[tuple[str, ...], list[str]] = {}
            for cell in cells:
                names = self.names(cell)
                same = (self.robustness[cell], *names[:number], *names[number + 1 :])
                groups.setdefault(same, []).append(cell)
            for (scope, *_), members in groups.items():
                high, low = members[0], members[-1]
                if self._more_spread(high, low) >= LEAST_SPREAD:
                    title = " against ".join(self.names(cell)[number] for cell in (high, low))
                    yield high, low, title if scope == OTHERS else f"{title} ({scope})"

    def names(self, cell: str) -> list[str]:
        """Return a cell's values on the axes."""
        return cell.split(BETWEEN)[1:]

    def _more_spread(self, high: str, low: str) -> float:
        """Return the difference in heterogeneity between two cells, over the seeds that both have.

        Heterogeneity is the mean distance of a client's task mix to the pool's. It also differs by seed.
        """
        by_seed = [
            dict(
                self.wide.filter(pl.col("cell") == cell).group_by("seed").agg(pl.col("tv").mean()).iter_rows()
            )
            for cell in (high, low)
        ]
        shared = by_seed[0].keys() & by_seed[1].keys()
        return fmean(by_seed[0][seed] - by_seed[1][seed] for seed in shared) if shared else 0.0

    def settings(self) -> list[Setting]:
        """Return every cell's personalizations: names, FACTS, last step and number of alphas."""
        keys = ["cell", *SETTING_NAMES]
        tuned = self.wide.filter(pl.col("condition") == "personalized")
        last = tuned.group_by(keys, maintain_order=True).agg(pl.col("step").max(), pl.col("alpha").n_unique())
        return last.join(self.facts, on=keys, how="left", maintain_order="left").to_dicts()

    def facts_of(self, cell: str, names: Mapping[str, object]) -> dict[str, object]:
        """Return the facts of a cell's setting, by its names; empty where nothing is personalized."""
        same = [pl.col(name) == names[name] for name in SETTING_NAMES]
        found = self.facts.filter(pl.col("cell") == cell, *same).select(FACTS).to_dicts()
        return found[0] if found else {}

    def along_steps(self, one: Setting) -> Curve:
        """Return a setting's curve along its steps.

        Text is scored at the last step and at each run's best step. The best step is a point of its own
        before the last, unless it is the last everywhere; where each step is scored, it is one of them.
        """
        rows = self._of(one).filter(pl.col("alpha") == 1.0)
        numbered, best = (rows.filter(pl.col("step").is_null() == is_best) for is_best in (False, True))
        sizes = numbered.group_by("step").len()["len"]
        if (sizes == sizes.max()).sum() > 1 or (best["at"] == one["step"]).all():
            rows = numbered
        order = pl.col("step").fill_null(pl.col("step").max() - 0.5)
        return self._curve(rows.sort(order), "step", one)

    def along_alpha(self, one: Setting) -> Curve:
        """Return a setting's curve from the federated parameters to its last step, by interpolation."""
        return self._curve(self._of(one).filter(pl.col("step") == one["step"]).sort("alpha"), "alpha", one)

    def _of(self, one: Setting) -> pl.DataFrame:
        keys = ("cell", "algorithm", "setting", "start")
        same = [pl.col(key) == one[key] for key in keys]
        return self.wide.filter(pl.col("condition") == "personalized", *same)

    def _curve(self, rows: pl.DataFrame, along: str, one: Setting) -> Curve:
        before = self.wide.filter(
            pl.col("condition") == "federated",
            pl.col("cell") == one["cell"],
            pl.col("algorithm") == one["algorithm"],
            pl.col("setting") == one["start"],
        )
        points = [part for _, part in rows.group_by(along, maintain_order=True)]
        # Leave out points that only some seeds have.
        most = max((len(part) for part in points), default=0)
        points = [before, *(part for part in points if len(part) == most)]
        steps = None
        if along == "step":
            steps = np.array([0.0, *(float(part["at"].to_numpy().mean()) for part in points[1:])])
        return self.scores(points, steps)

    def in_same_seeds(self, first: Curve, second: Curve) -> tuple[Curve, Curve]:
        """Return two curves of different cells on the seeds that both have, as in an unfinished study."""
        seeds = np.array(self.seeds)
        both = np.intersect1d(seeds[first.has], seeds[second.has])
        return first.where(np.isin(seeds, both)), second.where(np.isin(seeds, both))

    def base(self, cell: str) -> Curve:
        """Return the base model's scores, as a curve of one point."""
        return self.scores([self.wide.filter(pl.col("condition") == "base", pl.col("cell") == cell)])

    def scores(self, points: Sequence[pl.DataFrame], steps: Floats | None = None) -> Curve:
        """Spread each point's rows, of `wide`, over the units."""
        scores = np.full((2, len(points), len(self.units)), np.nan)
        for j, part in enumerate(points):
            for i, scope in enumerate((LOCAL, KEPT)):
                scores[i, j, part["unit"].to_numpy()] = (part[scope] * part["sign"]).to_numpy()
        return Curve(scores[0], scores[1], self._tasks_of(points), steps)

    def _tasks_of(self, points: Sequence[pl.DataFrame]) -> ByTask | None:
        if not self.tasks:
            return None
        scores = np.full((2, len(points), len(self.units), len(self.tasks)), np.nan)
        numbers = {task: number for number, task in enumerate(self.tasks)}
        for j, part in enumerate(points):
            # Rows of single tasks contain a run's best step under its own number.
            at = part.with_columns(step=pl.coalesce("at", "step")).select(*CONDITION, "unit")
            rows = at.join(self._by_task, on=[*CONDITION, "unit"], nulls_equal=True)
            task = rows["task"].replace_strict(numbers, return_dtype=pl.Int64).to_numpy()
            scores[rows["is_kept"].cast(pl.Int64).to_numpy(), j, rows["unit"].to_numpy(), task] = rows[
                "value"
            ].to_numpy()
        seeds = np.searchsorted(sorted(set(self.seeds)), self.seeds)
        return ByTask(seeds, scores[0], scores[1])


def on_common_scopes(tables: Sequence[pl.DataFrame], axes: Sequence[str], metric: str) -> list[World]:
    """Return a world of each table, with retained scores on the same scope in each cell.

    If others is undefined in a cell of one table, the global score is used in all. Validation and test
    clients may differ in this, and so may two runs.
    """
    worlds = [World(table, axes, metric) for table in tables]
    scopes = [scope for world in worlds for scope in world.robustness.items()]
    common = {cell: GLOBAL if (cell, GLOBAL) in scopes else scope for cell, scope in scopes}
    return [
        world
        if all(common[cell] == scope for cell, scope in world.robustness.items())
        else World(table, axes, metric, common)
        for world, table in zip(worlds, tables, strict=True)
    ]
