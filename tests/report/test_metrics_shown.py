"""Every report shows each metric of the results or names it as omitted, including unknown metrics."""

import json
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console
from test_claims import plain, table

from fedprofit.analyze.recommend import Limit
from fedprofit.analyze.tables import open_tables
from fedprofit.core.errors import UserError
from fedprofit.evaluate.metric import known_metrics
from fedprofit.evaluate.results import write_frame
from fedprofit.report.choices import write_comparison, write_recommendation
from fedprofit.report.figure import tradeoff_figure
from fedprofit.report.fronts import write_fronts
from fedprofit.report.overview import grid_cells
from fedprofit.report.page.data import page_data
from fedprofit.report.studies import write_claims
from fedprofit.report.write import write_report

QUICKSTART = Path(__file__).parents[2] / "docs" / "results" / "quickstart"
KNOWN = ["rouge_l", "exact_match", "loss"]


def with_metrics(frame, names=("chrf",), like="rouge_l"):
    """Add copies of a metric under other names, and one that has only global scores."""
    scores = frame.filter(pl.col("metric") == like)
    odd = scores.filter(pl.col("scope") == "global").with_columns(metric=pl.lit("odd"))
    return pl.concat([frame, *(scores.with_columns(metric=pl.lit(name)) for name in names), odd])


@pytest.fixture
def run(tmp_path):
    folder = shutil.copytree(QUICKSTART, tmp_path / "run")
    write_frame(folder / "results.parquet", with_metrics(pl.read_parquet(folder / "results.parquet")))
    return folder


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    effects = plain(lambda level, algorithm, rate: 4 + 3 * (rate > 0.05))
    scores = table({key: loss for key, loss in effects.items() if key[0] == "task"}, seeds=1, clients=6)
    base = scores.filter(pl.col("condition") == "federated", pl.col("algorithm") == "fedsgd").with_columns(
        condition=pl.lit("base"), algorithm=pl.lit(""), setting=pl.lit(""), step=pl.lit(None, pl.Int64),
        value=pl.lit(10.0),
    )  # fmt: skip
    both = pl.concat([scores, base]).with_columns(
        version=pl.lit("0"), model=pl.lit("m"), dtype=pl.lit("float32"), task=pl.lit("")
    )
    results = with_metrics(both, ["chrf", "exact_match", "loss"])
    write_frame(folder / "results.parquet", results)
    write_frame(folder / "validation.parquet", results.with_columns(client="v" + pl.col("client")))
    (folder / "study.json").write_text(json.dumps({"name": "made", "axes": ["seed", "heterogeneity"]}))
    return folder


def printed_by(write, *arguments):
    """Return the printed text on one line."""
    console = Console(file=StringIO(), width=80)
    write(*arguments, console)
    return " ".join(console.file.getvalue().split())


def test_known_metrics_are_ordered_by_informativeness():
    assert [name for name in known_metrics() if name in KNOWN] == KNOWN


def test_write_report_shows_or_names_every_metric(run, monkeypatch):
    # Other tests cover the figure and the page.
    monkeypatch.setattr("fedprofit.report.figure.save_tradeoff", lambda figure, folder: [folder])
    monkeypatch.setattr("fedprofit.report.page.write_page", lambda tables, path: None)
    printed = printed_by(write_report, run)
    assert "chrf, higher is taken to be better" in printed
    assert "Not shown, no local scores: odd (results.parquet)." in printed
    assert "Not shown here: Exact match (table.md)." in printed
    for name in ("table.md", "table.tex"):
        page = (run / name).read_text("utf-8").replace("\\", "")
        for title in ("ROUGE-L, 0", "Exact match in", "Loss in", "chrf, higher", "local scores: odd"):
            assert title in page, (name, title)
        assert "ROUGE-L: tokenizer rouge-score. Exact match: sni" in page
    assert {*KNOWN, "chrf", "odd"} == {*pl.read_csv(run / "table.csv")["metric"]}


def test_figure_shows_or_names_every_metric(run):
    tables = open_tables(run)
    figure = tradeoff_figure("run", "model", grid_cells(tables))
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["ROUGE-L", "Loss in nats per target token (axes inverted)", "chrf"]
    assert figure.get_suptitle().endswith("Not shown here: Exact match (table.md).")
    without = replace(tables, results=tables.results.filter(pl.col("metric").is_in(["loss", "exact_match"])))
    titles = [ax.get_title(loc="left") for ax in tradeoff_figure("", "", grid_cells(without)).axes]
    assert titles == ["Exact match in percent", "Loss in nats per target token (axes inverted)"]


def test_page_data_contains_every_metric(run):
    page = page_data(open_tables(run))
    assert [one["key"] for one in page["metrics"]] == [*KNOWN, "chrf"]
    assert page["metrics"][3] == {"key": "chrf", "title": "chrf", "short": "chrf", "lower": False}
    assert {one["metric"] for one in page["headlines"]} == {*KNOWN, "chrf"}
    assert {one["metric"] for one in page["conditions"]} >= {*KNOWN, "chrf"}
    assert page["notes"][0] == "ROUGE-L: tokenizer rouge-score."
    assert "odd" in page["notes"][-1]


def test_study_reports_show_or_name_every_metric(study):
    printed = printed_by(write_fronts, study)
    assert "Not shown here: Exact match, Loss, chrf (fronts.md)." in printed
    fronts = (study / "fronts.md").read_text("utf-8")
    assert all(f"{kind}: chrf, higher" in fronts for kind in ("Fronts", "Curves"))
    printed_by(write_claims, study)
    claims = json.loads((study / "claims.json").read_text("utf-8"))
    assert {one["metric"] for one in claims} == {*KNOWN, "chrf"}
    printed = printed_by(write_recommendation, study, "chrf", Limit(most_forgotten=5))
    assert "ship fedavg-adam, rate" in printed
    assert "chrf" in printed
    assert "Not shown here: ROUGE-L, Exact match, Loss (--metric rouge_l or exact_match or loss)." in printed


def test_comparison_names_metrics_that_some_runs_lack(run, tmp_path):
    out = tmp_path / "compared.md"
    printed = printed_by(write_comparison, [run, QUICKSTART], None, out)
    page = out.read_text("utf-8")
    assert f"not compared by chrf: only scored in {run}" in page
    for text in (printed, page):
        assert "not compared by chrf: only scored in" in text
        assert "Exact match: sni" in text
    both = printed_by(write_comparison, [run, run], None, out)
    assert "chrf, higher is taken to be better" in both
    assert "### chrf, higher" in out.read_text("utf-8")


def test_recommendation_rejects_metric_without_validation_scores(study):
    frame = pl.read_parquet(study / "validation.parquet").filter(pl.col("metric") == "rouge_l")
    write_frame(study / "validation.parquet", frame)
    with pytest.raises(UserError, match=r"not scored by 'chrf'.*Use --metric rouge_l"):
        printed_by(write_recommendation, study, "chrf", Limit(most_forgotten=5))
