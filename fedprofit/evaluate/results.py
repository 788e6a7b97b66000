"""The tidy results table: one row per client, condition, evaluation point, scope, task and metric.

Every row stands by itself: what was scored (algorithm, condition, setting, step, alpha), for whom
(client), on what (scope), how (metric), the value, and over how many it is a mean. Scores of a prompt
that clients share are repeated for each client, so that differences pair within a client.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl

from fedprofit.core.files import atomic
from fedprofit.core.reading import read_parquet
from fedprofit.core.sealed import facts_text, seal_file

SCHEMA: dict[str, type[pl.DataType]] = {
    "seed": pl.Int64,
    "algorithm": pl.String,  # "" for what needs no federated training
    "condition": pl.String,  # base, federated, personalized, local, central
    "setting": pl.String,  # name of the fine-tuning settings; for federated: last or best
    "start": pl.String,  # for personalized: the federated prompt it began from, last or best
    "rate": pl.Float64,  # client learning rate of the fine-tuning; null where there is none
    "pull": pl.Float64,  # weight of the L2 pull, lambda
    "alpha": pl.Float64,  # interpolation weight of the personal prompt
    "step": pl.Int64,  # fine-tuning steps; for federated: the round
    "client": pl.String,
    "scope": pl.String,  # local, global, unseen, validation; task: one task's part of global or unseen
    "task": pl.String,  # for scope task: which, else ""
    "metric": pl.String,  # see `metric.py`; one that it does not know is shown too
    "value": pl.Float64,
    "count": pl.Int64,  # target tokens (loss) or instances (else) behind the value
    "note": pl.String,  # why a client stopped, else ""
}
# What results of every version have.
NEEDED = ("seed", "algorithm", "condition", "setting", "client", "scope", "metric", "value", "count", "step")


@dataclass(frozen=True)
class Condition:
    """What was scored."""

    condition: str
    algorithm: str = ""
    setting: str = ""
    start: str = ""
    rate: float | None = None
    pull: float | None = None
    alpha: float | None = None
    step: int | None = None


@dataclass(frozen=True)
class Score:
    """One number: a condition's value for one client, on one scope, by one metric."""

    condition: Condition
    client: str
    scope: str
    metric: str
    value: float
    count: int
    note: str = ""
    task: str = ""


def to_frame(seed: int, scores: Sequence[Score]) -> pl.DataFrame:
    """Make the tidy table."""
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
    """Read the tidy table of a complete run's folder; UserError if there is none."""
    remedy = (
        "Give the folder of a complete run, or delete that file, if it is there, and complete the run with "
        "--resume."
    )
    return read_parquet(Path(path) / "results.parquet", remedy, NEEDED)
