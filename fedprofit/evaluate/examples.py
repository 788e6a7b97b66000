"""examples.parquet: one row per setting, evaluation point, client, scope and example.

A row contains the loss, the answer and each per-example metric (`score.NAME`). All means in reports can be
computed from it. A record for parameters and a set that all clients share occurs once, with client "".
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict

import polars as pl

from fedprofit.evaluate.hyperparameters import ScoredSetting, identified
from fedprofit.evaluate.records import ClientRecord
from fedprofit.evaluate.results import NAMES, SETTING_ID, Condition

SCORE = "score."  # begins the name of a metric's column
POINT: dict[str, type[pl.DataType]] = {"step": pl.Int64, "alpha": pl.Float64}
RECORD: dict[str, type[pl.DataType]] = {
    "client": pl.String,  # "": all clients share the parameters and the set
    "scope": pl.String,
    "example": pl.Int64,  # row of the data set's store; -1 if it has none
    "task": pl.String,
    "loss": pl.Float64,  # nats, summed over the target tokens
    "tokens": pl.Int64,  # target tokens
    "answer": pl.String,  # null: nothing was generated
}
STAGE: dict[str, type[pl.DataType]] = {**dict.fromkeys(NAMES, pl.String), **POINT, **RECORD}
EXAMPLES: dict[str, type[pl.DataType]] = {SETTING_ID: pl.String, **POINT, **RECORD}


def to_examples(records: Iterable[ClientRecord]) -> pl.DataFrame:
    """Make the table of records, with names as in the results, without ids."""
    rows = [
        {
            **asdict(one.condition),
            "client": one.client,
            "scope": one.scope,
            **{name: value for name, value in vars(one.record).items() if name != "scores"},
            **{f"{SCORE}{metric}": value for metric, value in one.record.scores.items()},
        }
        for one in records
    ]
    scores = dict.fromkeys(name for row in rows for name in row if name.startswith(SCORE))
    return pl.DataFrame(rows, schema={**STAGE, **dict.fromkeys(scores, pl.Float64)})


class Recorder:
    """Collects the records of a stage until they are written."""

    def __init__(self) -> None:
        """Start without records."""
        self._frames: list[pl.DataFrame] = []

    def add(self, records: Sequence[ClientRecord]) -> None:
        """Add the records of a result of `score_clients`."""
        if records:
            self._frames.append(to_examples(records))

    def repeat(self, scored: Condition, other: Condition) -> None:
        """Copy the records of a condition to another condition with the same parameters."""
        for frame in list(self._frames):
            same = frame.filter(
                pl.col(name).eq_missing(pl.lit(value)) for name, value in vars(scored).items()
            )
            named = [pl.lit(value, STAGE[name]).alias(name) for name, value in vars(other).items()]
            if len(same):
                self._frames.append(same.with_columns(named))

    def take(self) -> pl.DataFrame | None:
        """Return and remove the collected records; None if there are none."""
        found, self._frames = self._frames, []
        return pl.concat(found, how="diagonal") if found else None


def gathered(stages: Sequence[pl.DataFrame], settings: Sequence[ScoredSetting]) -> pl.DataFrame:
    """Concatenate the records of stages and add the ids of their settings; keep the names."""
    return identified(pl.concat(stages, how="diagonal_relaxed"), settings)


def without_names(examples: pl.DataFrame) -> pl.DataFrame:
    """Return the table to write: settings by id, each record once."""
    scores = [name for name in examples.columns if name.startswith(SCORE)]
    keys = [SETTING_ID, *POINT, "client", "scope", "example"]
    known = examples.filter(pl.col("example") >= 0).unique(keys, keep="first", maintain_order=True)
    others = examples.filter(pl.col("example") < 0)
    return pl.concat([known, others]).select(*EXAMPLES, *scores)
