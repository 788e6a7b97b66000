"""Compare runs or studies, client by client."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from fedprofit.analyze.curves import World, on_common_scopes
from fedprofit.analyze.intervals import Estimate, mean_of
from fedprofit.analyze.tables import IS_END, SETTING, Tables
from fedprofit.analyze.tradeoff import KEPT, label, protocol_of
from fedprofit.config.file import changed
from fedprofit.core.errors import UserError
from fedprofit.evaluate.metric import metric_of
from fedprofit.evaluate.results import GLOBAL, LOCAL, axis_column
from fedprofit.evaluate.rules import recorded_variant
from fedprofit.runs.folder import RunFolder
from fedprofit.studies.ledger import MADE_WITH, RUN

SHOWN = (LOCAL, KEPT)  # the scores that are compared

# Conditions pair by name, since their rate or proximal weight may be what differs between the runs.
NAMES = ["algorithm", "condition", "setting", "start", "alpha", "step"]
PAIR = ["cell", "seed", "client", *NAMES[:-1], "taken"]  # taken: see `_side`


@dataclass(frozen=True)
class Difference:
    """A condition's improvement in another run over the first; positive is better."""

    run: int  # number of the other run
    axes: dict[str, str]
    condition: str
    is_last: bool  # the last step of its setting
    first: dict[str, float]  # local and retained score, means
    other: dict[str, float]
    better: dict[str, Estimate]  # by scope


def compare(runs: Sequence[Tables], metric: str) -> list[Difference]:
    """Compare each of the other runs or studies with the first, condition by condition.

    Clients pair within their seed. With a single seed, the interval is over clients only. It does not
    contain the effect of another training run.

    Raises:
        UserError: the axes or the data differ, or no client or condition is shared.
        ScoringMismatch: the scores are not comparable.
    """
    first = runs[0]
    found: list[Difference] = []
    for number, other in enumerate(runs[1:], start=1):
        if sorted(other.axes) != sorted(first.axes):
            raise UserError(
                f"{other.path} is {_what(other)}, {first.path} is {_what(first)}. Compare runs with runs, "
                "and studies of equal axes."
            )
        _check_protocol(first, other)
        _check_data(first, other)
        _check_rules(first, other, metric)
        _check_counts(first, other, metric)
        found += _differences(number, first, other, metric)
    return found


def _what(tables: Tables) -> str:
    return f"a study over {', '.join(tables.axes)}" if tables.axes else "a single run"


def _check_protocol(first: Tables, other: Tables) -> None:
    """Raise UserError if scores were averaged by different versions of the protocol."""
    versions = [protocol_of(tables.results) for tables in (first, other)]
    if versions[0] != versions[1]:
        raise UserError(
            f"{other.path}: was scored by version {versions[1]} of the protocol, {first.path} by version "
            f"{versions[0]}. Version 2 averages over tasks, so the scores are not comparable. Run the older "
            "one again."
        )


def _check_data(first: Tables, other: Tables) -> None:
    """Raise UserError if clients of the same seed and name train on different data."""
    if first.clients is None or other.clients is None:
        return
    keys = [*map(axis_column, first.axes), "seed", "client"]
    mixes = [
        tables.clients.group_by(keys).agg(pl.struct("task", "examples").sort().alias("mix"))
        for tables in (first, other)
        if tables.clients is not None
    ]
    both = mixes[0].join(mixes[1], on=keys, suffix="_other")
    unequal = both.filter(pl.col("mix") != pl.col("mix_other"))
    if len(unequal):
        raise UserError(
            f"{other.path}: client {unequal['client'][0]!r} trains on other data than in {first.path}, so "
            "no clients pair. Compare runs or studies with the same data section."
        )


class ScoringMismatch(UserError):
    """Scores by one metric that differ in rules or in the number of examples or tokens."""


def _check_rules(first: Tables, other: Tables, metric: str) -> None:
    """Raise ScoringMismatch if answers are known to be scored by different rules."""
    used = [
        sorted({recorded_variant(environment, metric).name for environment in tables.environments.values()})
        for tables in (first, other)
    ]
    if all(used) and used[0] != used[1]:
        was, now = (" and ".join(variants) for variants in used)
        raise ScoringMismatch(
            f"{other.path}: was scored with {now}, {first.path} with {was}; these are not comparable. "
            "Give the metric the same settings in both (evaluation.metrics)."
        )


def _check_counts(first: Tables, other: Tables, metric: str) -> None:
    """Raise ScoringMismatch if the base model's scores are over different numbers of examples or tokens."""
    keys = [*map(axis_column, first.axes), "seed", "client", "scope"]
    scopes = (LOCAL, GLOBAL)
    base = (pl.col("condition") == "base") & (pl.col("metric") == metric) & pl.col("scope").is_in(scopes)
    counts = [tables.results.filter(base).select(*keys, "count") for tables in (first, other)]
    both = counts[0].join(counts[1], on=keys, suffix="_other")
    unequal = both.filter(pl.col("count") != pl.col("count_other"))
    if len(unequal):
        one, what = unequal.row(0, named=True), metric_of(metric).counted
        raise ScoringMismatch(
            f"{other.path}: the {one['scope']} score of client {one['client']!r} is over "
            f"{one['count_other']} {what}, in {first.path} over {one['count']}, so no clients pair. "
            "Compare runs that are scored on the same examples"
            f"{', with one tokenizer' if 'token' in what else ''}."
        )


def _differences(number: int, first: Tables, other: Tables, metric: str) -> list[Difference]:
    worlds = on_common_scopes([first.results, other.results], first.axes, metric)
    sign = metric_of(metric).sign
    sides = [_side(world, tables) for world, tables in zip(worlds, (first, other), strict=True)]
    both = sides[0].join(sides[1], on=PAIR, nulls_equal=True, suffix="_other", maintain_order="left")
    if both.is_empty():
        seeds = [sorted(set(world.seeds)) for world in worlds]
        remedy = (
            "Compare runs of the same data whose algorithms and settings have the same names."
            if set(seeds[0]) & set(seeds[1])
            else f"Its seeds are {seeds[1]}, not {seeds[0]}: clients pair within a seed. Give both the same."
        )
        raise UserError(f"{other.path}: shares no client and condition with {first.path}. {remedy}")
    steps = both.group_by("cell", "algorithm", "setting").agg(pl.col("step").max())
    last = {(cell, algorithm, setting): step for cell, algorithm, setting, step in steps.rows()}
    found = []
    for _, rows in both.group_by("cell", *NAMES, maintain_order=True):
        names = {name: rows[name][0] for name in NAMES}
        found.append(
            Difference(
                number,
                dict(zip(worlds[0].axes, worlds[0].names(rows["cell"][0]), strict=True)),
                label(names),
                names["step"]
                == last.get((rows["cell"][0], names["algorithm"], names["setting"]), names["step"]),
                {scope: _mean(rows[scope]) for scope in SHOWN},
                {scope: _mean(rows[f"{scope}_other"]) for scope in SHOWN},
                {scope: _better(rows, scope, sign) for scope in SHOWN},
            )
        )
    return found


def _side(world: World, tables: Tables) -> pl.DataFrame:
    """Return the scores that pair with those of another run or study.

    Steps pair by their number in their own run (column `taken`), since aligned final steps depend on the
    seeds in a table (see `with_one_last_step`). Federated prompts pair for any number of rounds.
    """
    step = pl.when(pl.col("condition") == "federated").then(None).otherwise(pl.col("step"))
    wide, taken = world.wide.with_columns(step=step), pl.col("step")
    if tables.ends is not None:
        wide = wide.join(tables.ends, on=[RUN, *SETTING], how="left", nulls_equal=True, maintain_order="left")
        taken = pl.when(IS_END).then(pl.col("end")).otherwise(pl.col("step"))
    return wide.with_columns(taken=taken).select(*PAIR, "step", LOCAL, KEPT)


def _better(rows: pl.DataFrame, scope: str, sign: float) -> Estimate:
    gains = sign * (rows[f"{scope}_other"] - rows[scope]).to_numpy()
    return mean_of(gains, rows["seed"].to_list(), least_seeds=1)


def _mean(values: pl.Series) -> float:
    return float(values.to_numpy().mean())


def changed_origin(first: Tables, other: Tables) -> list[str]:
    """Describe differences in version, model or number type between two runs or studies."""
    tables = [each.results for each in (first, other)]
    known = [name for name in MADE_WITH if all(name in table.columns for table in tables)]
    values = {name: [table[name][0] for table in tables] for name in known}
    return [f"{name}: {one} -> {two}" for name, (one, two) in values.items() if one != two]


def changed_settings(first: Path, other: Path) -> list[str]:
    """Describe settings that differ between two runs' folders; empty for studies."""
    if not all(RunFolder(folder).config.exists() for folder in (first, other)):
        return []
    mappings = [RunFolder(folder).read_config().to_mapping() for folder in (first, other)]
    return changed(mappings[0], mappings[1])
