"""Summaries of a synthetic study, compared with the numbers that it was generated from."""

from pathlib import Path

import polars as pl
import pytest
from test_claims import plain, table

from fedprofit.analyze.curves import World
from fedprofit.analyze.intervals import mean_of
from fedprofit.analyze.tables import Tables
from fedprofit.analyze.tradeoff import by_client
from fedprofit.report.figure import tradeoff_figure
from fedprofit.report.overview import grid_cells
from fedprofit.report.page.data import page_data
from fedprofit.report.table import file_table


def study(seeds):
    frame = table(plain(lambda level, algorithm, rate: 4 if rate > 0.05 else 2), seeds=seeds)
    return frame, grid_cells(Tables(Path("here"), "made", True, ["heterogeneity"], frame))


def test_gain_and_forgetting_have_bootstrap_intervals():
    frame, (task, _) = study(seeds=3)
    rows = [
        row
        for row in task.rows_by("rouge_l")
        if row["personalization.client.rate"] == 0.1 and row["step"] == 4
    ]
    for row in rows:
        clients = by_client(frame.filter(pl.col("axis.heterogeneity") == "task")).filter(
            pl.col("algorithm") == row["algorithm"],
            pl.col("setting") == "rate0.1",
            pl.col("step") == 4,
        )
        expected = mean_of(clients["forgetting"].to_numpy(), clients["seed"].to_list())
        assert (row["forgetting_low"], row["forgetting_high"]) == pytest.approx((expected.low, expected.high))
        assert row["forgetting_low"] < row["forgetting"] < row["forgetting_high"]
        assert (row["gain_low"], row["gain_high"]) == (10, 10), "without noise, the interval has no width"
        assert row["worst_low"] <= row["worst"] <= row["worst_high"]
        assert row["worst"] == pytest.approx(clients["forgetting"].sort()[-2:].mean()), "two of 18 clients"
    assert len(rows) == 2
    assert "| 10.0 [10.0, 10.0] |" in file_table(task.rows, "rouge_l", "task")
    federated = next(row for row in task.rows if row["condition"] == "federated")
    assert (federated["gain_low"], federated["forgetting_high"]) == (None, None)


def test_intervals_are_omitted_for_a_single_seed():
    _, (task, _) = study(seeds=1)
    assert {row["gain_low"] for row in task.rows} == {None}
    assert "[" not in file_table(task.rows, "rouge_l", "task")


def with_checks(frame, best):
    """Add validation losses that are lowest at step `best[seed]`; keep text at that and the last step."""
    tuned = (pl.col("condition") == "personalized") & (pl.col("scope") == "local")
    at_best = pl.col("step") == pl.col("seed").replace_strict(best)
    checks = frame.filter(tuned).with_columns(
        scope=pl.lit("validation"), metric=pl.lit("loss"), value=pl.when(at_best).then(1.0).otherwise(2.0)
    )
    scored = (pl.col("condition") != "personalized") | at_best | (pl.col("step") == 4)
    return pl.concat([frame.filter(scored), checks])


def test_best_step_is_point_between_start_and_last():
    frame, _ = study(seeds=3)
    mixed = with_checks(frame, {0: 2, 1: 2, 2: 4})
    tables = Tables(Path("here"), "made", True, ["heterogeneity"], mixed)
    task = grid_cells(tables)[0]
    rows = [r for r in task.rows_by("rouge_l") if r["setting"] == "rate0.1" and r["algorithm"] == "fedsgd"]
    last, best = sorted(rows, key=lambda row: row["step"] is None)
    # Local scores are 25 after two steps and 30 after four; two of the three seeds are best after two.
    assert (last["step"], last["local"], best["local"]) == (4, 30, pytest.approx(80 / 3))
    assert last["curve"]
    assert best["curve"]
    assert best["clients"] == last["clients"] == 18
    assert "| fedsgd, rate0.1, best step | 26.7 |" in file_table(task.rows, "rouge_l", "task")
    figure = tradeoff_figure("study", "model", [task])
    line = next(one for one in figure.axes[0].lines if "fedsgd, rate0.1" in one.get_label())
    assert line.get_ydata().tolist() == pytest.approx([20, 80 / 3, 30]), "start, best, last"
    world = World(mixed, ["seed", "heterogeneity"], "rouge_l")
    for one in world.settings():
        assert world.along_steps(one).local.shape[0] == 3
    best_is_last = World(with_checks(frame, dict.fromkeys(range(3), 4)), ["seed", "heterogeneity"], "rouge_l")
    for one in best_is_last.settings():
        assert best_is_last.along_steps(one).local.shape[0] == 2, "no point between start and last step"


def test_partition_samples_other_clients_when_many():
    frame, _ = study(seeds=1)
    clients = [(f"t{n:05}", "train") for n in range(5000)] + [(f"c{n}", "test") for n in range(6)]
    mixes = pl.DataFrame(
        [("task", 0, client, group, "a", 2) for client, group in clients],
        ["axis.heterogeneity", "seed", "client", "group", "task", "examples"],
        orient="row",
    )
    tables = Tables(Path("here"), "made", True, ["heterogeneity"], frame, clients=mixes)
    (chart,) = page_data(tables)["partition"]
    assert chart["of"] == 5006
    assert chart["clients"][-6:] == [f"c{n}" for n in range(6)]
    assert chart["clients"][:-6] == [f"t{n:05}" for n in range(0, 5000, 25)]
    assert len(chart["counts"]) == 206
