"""What reports show of a made-up study, against the numbers that it was made of."""

from pathlib import Path

import polars as pl
import pytest
from test_claims import plain, table

from fedprofit.analyze.tables import Tables
from fedprofit.evaluate.statistics import mean_of
from fedprofit.evaluate.tradeoff import by_client
from fedprofit.report.overview import places
from fedprofit.report.table import written_table


def study(seeds):
    frame = table(plain(lambda level, algorithm, rate: 4 if rate > 0.05 else 2), seeds=seeds)
    return frame, places(Tables(Path("here"), "made", True, ["heterogeneity"], frame))


def test_what_is_gained_and_forgotten_has_the_interval_of_its_clients():
    frame, (task, _) = study(seeds=3)
    rows = [row for row in task.of("rouge_l") if row["rate"] == 0.1 and row["step"] == 4]
    for row in rows:
        own = by_client(frame.filter(pl.col("heterogeneity") == "task")).filter(
            pl.col("algorithm") == row["algorithm"], pl.col("rate") == 0.1, pl.col("step") == 4
        )
        found = mean_of(own["forgetting"].to_numpy(), own["seed"].to_list())
        assert (row["forgetting_low"], row["forgetting_high"]) == pytest.approx((found.low, found.high))
        assert row["forgetting_low"] < row["forgetting"] < row["forgetting_high"]
        assert (row["gain_low"], row["gain_high"]) == (10, 10), "no noise, no width"
    assert len(rows) == 2
    assert "| 10.0 [10.0, 10.0] |" in written_table(task.rows, "rouge_l", "task")
    federated = next(row for row in task.rows if row["condition"] == "federated")
    assert (federated["gain_low"], federated["forgetting_high"]) == (None, None)


def test_a_single_seed_gives_no_interval():
    _, (task, _) = study(seeds=1)
    assert {row["gain_low"] for row in task.rows} == {None}
    assert "[" not in written_table(task.rows, "rouge_l", "task")
