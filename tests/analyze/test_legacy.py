"""Result folders of earlier versions, read with current columns."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from fedprofit.analyze.compare import compare
from fedprofit.analyze.facts import FACTS
from fedprofit.analyze.legacy import with_settings
from fedprofit.analyze.tables import open_tables
from fedprofit.config.legacy import upgraded
from fedprofit.core.errors import UserError
from fedprofit.evaluate.results import write_frame
from fedprofit.report.studies import write_claims
from fedprofit.studies.admission import _check_columns
from fedprofit.studies.ledger import StudyFolder

OLD = Path(__file__).with_name("old_study")  # by loss only, of an earlier version


@pytest.fixture(scope="module")
def paper():
    return open_tables(OLD)


def test_old_study_gets_axis_columns_and_settings(paper):
    assert paper.axes == ["heterogeneity"]
    for table in (paper.results, paper.validation, paper.rounds, paper.trials, paper.clients, paper.times):
        assert "axis.heterogeneity" in table.columns
        assert "heterogeneity" not in table.columns
    tuned = paper.results.filter(pl.col("condition") == "personalized")
    assert tuned["setting_id"].null_count() == 0
    assert not paper.settings["setting_id"].is_duplicated().any()
    # Old and joined columns are equal.
    assert (tuned["rate"] == tuned["personalization.client.rate"]).all()
    assert (tuned["pull"] == tuned["personalization.proximal"]).all()
    kinds = tuned.select("algorithm", "algorithm.kind", "algorithm.client.kind").unique().sort("algorithm")
    assert kinds.rows() == [
        ("fedavg-adam", "fedavg", "adam"),
        ("fedavg-sgd", "fedavg", "sgd"),
        ("fedsgd", "fedsgd", None),
    ]


def test_old_study_has_selected_trial_of_each_run(paper):
    one = paper.trials.filter("chosen", pl.col("algorithm") == "fedavg-adam").row(0, named=True)
    rows = paper.results.filter(
        pl.col("run") == one["run"], pl.col("algorithm") == "fedavg-adam", pl.col("condition") == "federated"
    )
    known = paper.settings.filter(pl.col("setting_id") == rows["setting_id"][0])
    assert known["algorithm.client.rate"].to_list() == [float(one["trial"].rpartition("-rate")[2])]


def test_settings_come_from_columns_when_configuration_is_missing(paper):
    old = pl.read_parquet(OLD / "results.parquet").head(20_000)
    found, settings = with_settings(old, None, {}, None)
    tuned = found.filter(pl.col("condition") == "personalized")
    assert (tuned["rate"] == tuned["personalization.client.rate"]).all()
    assert set(tuned["personalization.kind"]) == {"finetune"}
    assert set(tuned["algorithm.client.kind"]) <= {"adam", "sgd", None}
    assert {*FACTS} <= {*found.columns}
    assert len(settings) >= tuned.select("algorithm", "setting", "start").n_unique()


def test_old_study_refuses_new_runs(tmp_path):
    for name in ("results.parquet", "study.json"):
        shutil.copy(OLD / name, tmp_path)
    with pytest.raises(
        UserError, match=r"earlier version, in other columns.*choose another folder with --out"
    ):
        _check_columns(StudyFolder(tmp_path))


def test_upgraded_configuration_keeps_current_keys():
    kept = json.loads((OLD / "configurations.json").read_text())
    old = next(value for value in kept.values() if isinstance(value, dict))
    new = upgraded(old)
    client = new["training"]["algorithms"][0]["client"]
    assert client == {
        "kind": "adam", "rate": 0.01, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-08, "weight_decay": 0.0,
    }  # fmt: skip
    assert upgraded(new) == new
    assert "optimizer" in json.dumps(old), "the argument is unchanged"
    assert '"optimizer"' not in json.dumps(new)


def test_axis_may_have_the_name_of_a_column(tmp_path, paper):
    """Axes called `local`, `value` or `rate` do not clash with columns of the tables."""
    renamed = paper.results.filter(pl.col("metric") == "loss").select(
        pl.exclude("axis.heterogeneity", "rate", "pull", *FACTS),
        pl.col("axis.heterogeneity").alias("axis.value"),
    )
    write_frame(tmp_path / "results.parquet", renamed)
    write_frame(tmp_path / "settings.parquet", paper.settings)
    (tmp_path / "study.json").write_text(json.dumps({"name": "made", "axes": ["seed", "value"]}))
    tables = open_tables(tmp_path)
    assert tables.axes == ["value"]
    assert set(tables.results["axis.value"]) == {"task", "tasks", "iid"}
    assert tables.results["value"].dtype == pl.Float64
    tuned = tables.results.filter(pl.col("condition") == "personalized")
    assert tuned["personalization.client.rate"].null_count() == 0


def test_compare_refuses_scores_of_two_protocols(paper):
    current = paper.results.with_columns(scope=pl.col("scope").replace("local", "local_task"))
    with pytest.raises(UserError, match=r"there: was scored by version 2 of the protocol, .* by version 1"):
        compare([paper, replace(paper, path=Path("there"), results=current)], "loss")


def test_claims_read_old_study(paper, tmp_path):
    shutil.copytree(OLD, tmp_path / "old")
    write_claims(tmp_path / "old", Console(quiet=True))
    assert "C2a" in (tmp_path / "old" / "claims.md").read_text()
