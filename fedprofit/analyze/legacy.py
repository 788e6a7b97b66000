"""Read result folders of earlier versions: rename columns and rebuild the table of settings.

Earlier versions wrote neither settings.parquet nor setting ids. Axis columns had no prefix. The only
hyperparameters in the results were the columns `rate` and `pull`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from fedprofit.analyze.facts import FACTS, NUMBERS, PROXIMAL, TUNING_RATE
from fedprofit.config.legacy import upgraded
from fedprofit.evaluate.hyperparameters import (
    ALGORITHM,
    PERSONALIZATION,
    ScoredSetting,
    identified,
    joined,
    settings_frame,
)
from fedprofit.evaluate.results import NAMES, SETTING_ID, axis_column
from fedprofit.runs.settings import settings_of

RUN = "run"
OLD = {"rate": TUNING_RATE, "pull": PROXIMAL}  # columns of old results, and their hyperparameters


def with_axis_columns(frame: pl.DataFrame, axes: Sequence[str]) -> pl.DataFrame:
    """Add the prefix to axis columns that an earlier version wrote without it."""
    old = {axis: axis_column(axis) for axis in axes if axis_column(axis) not in frame.columns}
    return frame.rename({axis: column for axis, column in old.items() if axis in frame.columns})


def with_settings(
    results: pl.DataFrame,
    settings: pl.DataFrame | None,
    configurations: Mapping[str, Any],
    trials: pl.DataFrame | None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Join the hyperparameters of FACTS to results.

    Args:
        results: of one or more runs, with the column `run`.
        settings: the table of settings; None if it is missing, as in earlier versions.
        configurations: complete, by run. They replace a missing table of settings.
        trials: of the runs; they record which trials were selected.

    Returns:
        The joined results, and the table of all settings.
    """
    if settings is None or SETTING_ID not in results.columns:
        results, settings = _rebuilt(results, configurations, trials)
    found = joined(results, settings, FACTS)
    numbers = [pl.col(name).cast(pl.Float64, strict=False) for name in NUMBERS]
    return found.with_columns(numbers), settings


def _rebuilt(
    results: pl.DataFrame, configurations: Mapping[str, Any], trials: pl.DataFrame | None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return results with setting ids, and the table of settings, from the runs' configurations."""
    parts, rows = [], []
    for (run,), own in results.group_by(RUN, maintain_order=True):
        if run in configurations:
            settings = settings_of(upgraded(configurations[run]), _chosen(trials, str(run)))
        else:
            settings = _from_columns(own)
        parts.append(identified(own, settings))
        rows += [one.row for one in settings]
    if not parts:
        return results.with_columns(pl.lit(None, pl.String).alias(SETTING_ID)), settings_frame([])
    return pl.concat(parts), settings_frame(rows)


def _chosen(trials: pl.DataFrame | None, run: str) -> dict[str, str]:
    if trials is None or "chosen" not in trials.columns:
        return {}
    own = trials.filter(pl.col(RUN) == run, pl.col("chosen"))
    return dict(own.select("algorithm", "trial").rows())


def _from_columns(results: pl.DataFrame) -> list[ScoredSetting]:
    """Return the settings in the columns of an old table, for a run without configuration."""
    known = [name for name in OLD if name in results.columns]
    found = []
    for row in results.select(*NAMES, *known).unique(maintain_order=True).to_dicts():
        condition, algorithm, setting, start = (row.pop(name) or "" for name in NAMES)
        values = {OLD[name].removeprefix(f"{PERSONALIZATION}."): value for name, value in row.items()}
        parts = {ALGORITHM: _from_name(algorithm)} if algorithm else {}
        if condition == "personalized":
            parts |= {PERSONALIZATION: {"kind": "finetune", **values}}
        found.append(ScoredSetting(condition, algorithm, setting, start, parts=parts))
    return found


def _from_name(algorithm: str) -> dict[str, str]:
    """Return an algorithm's hyperparameters from its name, for a run without configuration.

    >>> _from_name("fedavg-adam")
    {'name': 'fedavg-adam', 'kind': 'fedavg', 'client.kind': 'adam'}
    """
    kind = next((kind for kind in ("fedavg", "fedsgd") if algorithm.startswith(kind)), None)
    client = next((client for client in ("adam", "sgd") if client in algorithm), None)
    facts = {"name": algorithm, "kind": kind, "client.kind": client if kind == "fedavg" else None}
    return {name: value for name, value in facts.items() if value is not None}
