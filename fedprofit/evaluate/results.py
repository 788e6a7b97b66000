"""The tidy results table: one row per client, condition, evaluation point, scope, task and metric.

A row contains the parameters (algorithm, condition, setting, step, alpha), the client, the scope, the metric,
its value, and the number of examples or tokens that it averages. Scores of parameters that clients share are
repeated for each client, so that differences can be paired within a client. Hyperparameters are in a separate
table (`hyperparameters.py`), joined by the setting's id.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from fedprofit.core.files import atomic
from fedprofit.core.reading import read_parquet
from fedprofit.core.sealed import facts_text, seal_file

# What a row is scored on; TASK ends the scope of one task's part, such as local_task.
LOCAL, GLOBAL, OTHERS, UNSEEN, VALIDATION = "local", "global", "others", "unseen", "validation"
TASK = "_task"
AXIS = "axis."  # name prefix of columns with the values of a study's axis
SETTING_ID = "setting_id"

SCHEMA: dict[str, type[pl.DataType]] = {
    "seed": pl.Int64,
    SETTING_ID: pl.String,  # row of settings.parquet, with all hyperparameters
    "algorithm": pl.String,  # "" without federated training
    "condition": pl.String,  # base, federated, personalized, or the name of a baseline
    "setting": pl.String,  # name of the personalization; for federated: last or best
    "start": pl.String,  # for personalized: its federated start, last or best
    "alpha": pl.Float64,  # interpolation weight of the personal parameters
    "step": pl.Int64,  # local steps; for federated: the round
    "client": pl.String,
    "scope": pl.String,  # local, global, others, unseen, validation; local_task, …: one task's part of it
    "task": pl.String,  # for one task's part: the task, else ""
    "metric": pl.String,  # see `metric.py`; unknown ones are shown too
    "value": pl.Float64,  # mean over examples, then over tasks, unless the metric says otherwise
    "count": pl.Int64,  # target tokens (loss) or examples (else) that the value averages
    "note": pl.String,  # why a client stopped, else ""
}
NAMES = ("condition", "algorithm", "setting", "start")  # of a setting, within a run
# Columns of every version's results.
NEEDED = ("seed", "algorithm", "condition", "setting", "client", "scope", "metric", "value", "count", "step")


def axis_column(axis: str) -> str:
    """Return the column of a study's axis; the seed is a column of every run's tables.

    >>> axis_column("heterogeneity"), axis_column("seed")
    ('axis.heterogeneity', 'seed')
    """
    return axis if axis == "seed" else AXIS + axis


@dataclass(frozen=True)
class Condition:
    """The parameters that were scored."""

    condition: str
    algorithm: str = ""
    setting: str = ""
    start: str = ""
    alpha: float | None = None
    step: int | None = None


@dataclass(frozen=True)
class Score:
    """A condition's value for one client, scope and metric."""

    condition: Condition
    client: str
    scope: str
    metric: str
    value: float
    count: int
    note: str = ""
    task: str = ""


def to_frame(seed: int, scores: Sequence[Score]) -> pl.DataFrame:
    """Make the tidy table; `identified` of `hyperparameters.py` fills in the setting's id."""
    rows = [
        {"seed": seed, **asdict(s.condition), **{k: v for k, v in vars(s).items() if k != "condition"}}
        for s in scores
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def write_frame(path: Path, frame: pl.DataFrame) -> None:
    """Write a table as Parquet with a checksum, atomically."""
    with atomic(path) as temporary:
        frame.write_parquet(temporary, metadata={"fedprofit": facts_text({})})
        seal_file(temporary)


def read_results(path: str | Path) -> pl.DataFrame:
    """Read the tidy table of a complete run's folder. Raise UserError if there is none."""
    remedy = (
        "Give the folder of a complete run, or delete that file, if it is there, and complete the run with "
        "--resume."
    )
    return read_parquet(Path(path) / "results.parquet", remedy, NEEDED)
