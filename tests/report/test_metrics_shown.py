"""A metric that results hold is shown everywhere, or named as not shown, also one that nobody knows."""

import json
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import get_args

import polars as pl
import pytest
from rich.console import Console
from test_claims import plain, table

from fedprofit.analyze.recommend import Limit
from fedprofit.analyze.tables import open_tables
from fedprofit.config import base as config_base
from fedprofit.core.errors import UserError
from fedprofit.evaluate.metric import METRICS
from fedprofit.evaluate.results import write_frame
from fedprofit.evaluate.score import TEXT_METRICS
from fedprofit.report.choices import write_comparison, write_recommendation
from fedprofit.report.figure import tradeoff_figure
from fedprofit.report.fronts import write_fronts
from fedprofit.report.overview import places
from fedprofit.report.page.data import page_data
from fedprofit.report.studies import write_claims
from fedprofit.report.write import write_report

QUICKSTART = Path(__file__).parents[2] / "docs" / "results" / "quickstart"
KNOWN = ["rouge_l", "exact_match", "loss"]


def with_metrics(frame, names=("chrf",), like="rouge_l"):
    """Add metrics with scores like another's, and one that has global scores only."""
    own = frame.filter(pl.col("metric") == like)
    odd = own.filter(pl.col("scope") == "global").with_columns(metric=pl.lit("odd"))
    return pl.concat([frame, *(own.with_columns(metric=pl.lit(name)) for name in names), odd])


@pytest.fixture
def run(tmp_path):
    place = shutil.copytree(QUICKSTART, tmp_path / "run")
    write_frame(place / "results.parquet", with_metrics(pl.read_parquet(place / "results.parquet")))
    return place


@pytest.fixture
def study(tmp_path):
    place = tmp_path / "study"
    place.mkdir()
    effects = plain(lambda level, algorithm, rate: 4 + 3 * (rate > 0.05))
    made = table({key: loss for key, loss in effects.items() if key[0] == "task"}, seeds=1, clients=6)
    base = made.filter(pl.col("condition") == "federated", pl.col("algorithm") == "fedsgd").with_columns(
        condition=pl.lit("base"), algorithm=pl.lit(""), setting=pl.lit(""), step=pl.lit(None, pl.Int64),
        value=pl.lit(10.0),
    )  # fmt: skip
    both = pl.concat([made, base]).with_columns(
        version=pl.lit("0"), model=pl.lit("m"), dtype=pl.lit("float32"), task=pl.lit("")
    )
    results = with_metrics(both, ["chrf", "exact_match", "loss"])
    write_frame(place / "results.parquet", results)
    write_frame(place / "validation.parquet", results.with_columns(client="v" + pl.col("client")))
    (place / "study.json").write_text(json.dumps({"name": "made", "axes": ["seed", "heterogeneity"]}))
    return place


def said_by(write, *arguments):
    """Return what is printed, on one line."""
    console = Console(file=StringIO(), width=80)
    write(*arguments, console)
    return " ".join(console.file.getvalue().split())


def test_the_facts_name_every_metric_that_can_be_computed():
    assert {*METRICS} == {*get_args(config_base.Metric)} == {"loss", *TEXT_METRICS}


def test_the_report_of_a_run_shows_or_names_every_metric(run, monkeypatch):
    # Pictures and the page have tests of their own.
    monkeypatch.setattr("fedprofit.report.figure.save_tradeoff", lambda figure, folder: [folder])
    monkeypatch.setattr("fedprofit.report.page.write_page", lambda tables, path: None)
    said = said_by(write_report, run)
    assert "chrf, higher is taken to be better" in said
    assert "Not shown, for want of local scores: odd (results.parquet)." in said
    assert "Not shown here: Exact match (table.md)." in said
    for name in ("table.md", "table.tex"):
        page = (run / name).read_text("utf-8").replace("\\", "")
        for title in ("ROUGE-L, 0", "Exact match in", "Loss in", "chrf, higher", "local scores: odd"):
            assert title in page, (name, title)
        assert "ROUGE-L: tokenizer rouge-score. Exact match: sni" in page
    assert {*KNOWN, "chrf", "odd"} == {*pl.read_csv(run / "table.csv")["metric"]}


def test_the_picture_has_a_panel_for_a_metric_or_names_it(run):
    tables = open_tables(run)
    figure = tradeoff_figure("run", "model", places(tables))
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["ROUGE-L", "Loss in nats per target token (axes inverted)", "chrf"]
    assert figure.get_suptitle().endswith("Not shown here: Exact match (table.md).")
    without = replace(tables, results=tables.results.filter(pl.col("metric").is_in(["loss", "exact_match"])))
    titles = [ax.get_title(loc="left") for ax in tradeoff_figure("", "", places(without)).axes]
    assert titles == ["Exact match in percent", "Loss in nats per target token (axes inverted)"]


def test_the_page_has_every_metric(run):
    page = page_data(open_tables(run))
    assert [one["key"] for one in page["metrics"]] == [*KNOWN, "chrf"]
    assert page["metrics"][3] == {"key": "chrf", "title": "chrf", "short": "chrf", "lower": False}
    assert {one["metric"] for one in page["headlines"]} == {*KNOWN, "chrf"}
    assert {one["metric"] for one in page["conditions"]} >= {*KNOWN, "chrf"}
    assert page["notes"][0] == "ROUGE-L: tokenizer rouge-score."
    assert "odd" in page["notes"][-1]


def test_fronts_claims_and_choices_of_a_study_show_or_name_every_metric(study):
    said = said_by(write_fronts, study)
    assert "Not shown here: Exact match, Loss, chrf (fronts.md)." in said
    fronts = (study / "fronts.md").read_text("utf-8")
    assert all(f"{kind}: chrf, higher" in fronts for kind in ("Fronts", "Curves"))
    said_by(write_claims, study)
    claims = json.loads((study / "claims.json").read_text("utf-8"))
    assert {one["metric"] for one in claims} == {*KNOWN, "chrf"}
    said = said_by(write_recommendation, study, "chrf", Limit(most_forgotten=5))
    assert "ship fedavg-adam, rate" in said
    assert "chrf" in said
    assert "Not shown here: ROUGE-L, Exact match, Loss (--metric rouge_l or exact_match or loss)." in said


def test_a_comparison_names_the_metrics_that_only_some_have(run, tmp_path):
    out = tmp_path / "compared.md"
    said = said_by(write_comparison, [run, QUICKSTART], None, out)
    page = out.read_text("utf-8")
    assert f"not by chrf: only scored in {run}" in page
    for text in (said, page):
        assert "not by chrf: only scored in" in text
        assert "Exact match: sni" in text
    both = said_by(write_comparison, [run, run], None, out)
    assert "chrf, higher is taken to be better" in both
    assert "### chrf, higher" in out.read_text("utf-8")


def test_what_the_validation_clients_were_not_scored_by_cannot_choose(study):
    frame = pl.read_parquet(study / "validation.parquet").filter(pl.col("metric") == "rouge_l")
    write_frame(study / "validation.parquet", frame)
    with pytest.raises(UserError, match=r"not scored by 'chrf'.*Take --metric rouge_l"):
        said_by(write_recommendation, study, "chrf", Limit(most_forgotten=5))
