"""worst.parquet: the examples with a run's worst scores, with texts and every method's answer.

It is written while the data set is open, since reports read only tables.
"""

from collections.abc import Callable
from typing import NamedTuple

import polars as pl

from fedprofit.evaluate.examples import SCORE
from fedprofit.evaluate.metric import in_order, metric_of

MOST = 8  # examples per run
KEY = ["client", "example"]
COLUMNS = (
    "rank", "mean", "client", "example", "task", "input", "reference", "setting_id", "algorithm", "condition",
    "setting", "start", "alpha", "step", "metric", "value", "loss", "answer",
)  # fmt: skip


class Texts(NamedTuple):
    """Input and reference of an example."""

    input: str
    reference: str


def worst_examples(
    examples: pl.DataFrame, metrics: list[str], texts: Callable[[int], Texts], most: int = MOST
) -> pl.DataFrame:
    """Return the test clients' own examples with the worst mean score over the personalized methods.

    Args:
        examples: of `gathered`, of one run.
        metrics: of the run. The first that scores single examples is used; the loss breaks ties.
        texts: function from a row of the data set to its input and reference.
        most: maximum number of examples.

    Returns:
        A row for each of these examples and each method at its last step, the worst example first.
    """
    metric = next((name for name in in_order(metrics) if f"{SCORE}{name}" in examples.columns), "loss")
    per_token = pl.col("loss") / pl.col("tokens")
    value = per_token if metric == "loss" else pl.col(f"{SCORE}{metric}")
    methods = _last_steps(examples).with_columns(metric=pl.lit(metric), value=value, loss=per_token)
    methods = methods.filter(pl.col("value").is_not_null())
    tuned = methods.filter(pl.col("condition") == "personalized")
    means = (
        (tuned if len(tuned) else methods)
        .group_by(KEY, maintain_order=True)
        .agg(pl.col("value").mean().alias("mean"), pl.col("loss").mean().alias("mean_loss"))
    )
    sign = metric_of(metric).sign
    # NaN, from a method that diverged, is worst.
    worst_first = means.sort(sign * pl.col("mean").fill_nan(-sign * float("inf")), -pl.col("mean_loss"), *KEY)
    ranked = worst_first.head(most).drop("mean_loss").with_row_index("rank", offset=1)
    found = ranked.join(methods, on=KEY, how="left", maintain_order="left_right")
    read = {row: texts(row) for row in ranked["example"].unique() if row >= 0}
    known = pl.DataFrame(
        [(row, *each) for row, each in read.items()],
        schema={"example": pl.Int64, "input": pl.String, "reference": pl.String},
        orient="row",
    )
    return found.join(known, on="example", how="left", maintain_order="left").select(COLUMNS)


def _last_steps(examples: pl.DataFrame) -> pl.DataFrame:
    """Return the clients' own examples with each method's answer at its last step."""
    own = examples.filter(
        pl.col("scope") == "local", pl.col("alpha").fill_null(1.0) == 1.0, pl.col("setting") != "best"
    )
    method = ["condition", "algorithm", "setting", "start"]
    last = pl.col("step").fill_null(0) == pl.col("step").fill_null(0).max().over(method)
    return own.filter(last)
