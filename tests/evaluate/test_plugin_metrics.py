"""Metrics in files outside of the package: correct, in every table, and refused by name if wrong."""

import json
from io import StringIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from tiny_run import write_config

from fedprofit import plugins
from fedprofit.analyze.tables import open_tables
from fedprofit.config.file import load_config
from fedprofit.core.errors import UserError
from fedprofit.core.types import Example
from fedprofit.evaluate import metric as metric_module
from fedprofit.evaluate.checks import checked_value
from fedprofit.evaluate.metrics.base import Answer, Metric
from fedprofit.evaluate.score import judge
from fedprofit.report.page.data import page_data
from fedprofit.report.write import write_report
from fedprofit.runs.run import run

PLUGINS = Path(__file__).parents[2] / "examples" / "plugins"
TOKENS = np.zeros(2, np.int32)
WORDS = '''
from fedprofit.evaluate.metrics.base import Answer, Metric


class Words(Metric, kind="words"):
    """Words of an answer that are too many."""

    title, unit, bounds = "Surplus words", "words", (0, 99)
    lower_is_better = True

    def score(self, answer: Answer) -> float:
        return max(0, len(answer.text.split()) - len(answer.references[0].split()))
'''


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Remove components that a test registers."""
    monkeypatch.setattr(Metric.family, "kinds", dict(Metric.family.all_kinds()))
    monkeypatch.setattr(plugins, "_files", {})
    monkeypatch.setattr(metric_module, "_recorded", {})


def load(name):
    plugins.load_files([PLUGINS / f"{name}.py"])
    return Metric.family.find(name)()


def answered(text, *references, row=0, task="task", loss=1.0):
    return Answer(Example(TOKENS, TOKENS, TOKENS, task, references, row), loss, text)


def value(metric, answers):
    return checked_value(metric, judge(answers, [metric]).values[metric.name], "a test")[0]


def plain_f1(answer, reference):
    """F1 by precision and recall, word by word."""
    left, shared = reference.split(), 0
    for word in answer.split():
        if word in left:
            left.remove(word)
            shared += 1
    if not shared:
        return 0.0
    precision, recall = shared / len(answer.split()), shared / len(reference.split())
    return 100 * 2 * precision * recall / (precision + recall)


def test_token_f1_equals_plain_precision_and_recall():
    metric = load("token_f1")
    draw = np.random.default_rng(0)
    seen = set()
    for _ in range(100):
        answer, one, other = (" ".join(draw.choice([*"wxyz"], draw.integers(1, 6))) for _ in range(3))
        expected = max(plain_f1(answer, one), plain_f1(answer, other))
        assert metric.score(answered(answer, one, other)) == pytest.approx(expected)
        seen.add(expected)
    assert {0.0, 100.0} < seen
    assert metric.score(answered("The Red house!", "a red House")) == 100
    assert metric.score(answered("", "red")) == 0
    assert metric.score(answered("the", "a")) == 100, "neither has words"


def test_macro_f1_equals_counts_by_hand():
    """Of 3 yes, 2 are found; of 2 no, 1 is found and 1 is answered without a label; 1 yes is answered no.

    yes: precision 2/2, recall 2/3, F1 0.8. no: precision 1/2, recall 1/2, F1 0.5. The mean of examples is 60.
    """
    metric = load("macro_f1")
    pairs = [("yes", "yes"), ("Yes", "yes"), ("no", "yes"), ("no", "no"), ("maybe", "no")]
    assert value(metric, [answered(text, label) for text, label in pairs]) == pytest.approx(65.0)
    assert value(metric, [answered("yes", "yes")]) == 100
    assert value(metric, [answered("maybe", "yes")]) == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run through YAML with three metrics from files; they are unloaded afterwards."""
    folder = tmp_path_factory.mktemp("run")
    words = folder / "words.py"
    words.write_text(WORDS, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Metric.family, "kinds", dict(Metric.family.all_kinds()))
        patch.setattr(plugins, "_files", {})
        patch.setattr(metric_module, "_recorded", {})
        plugins.load_files([PLUGINS / "token_f1.py", PLUGINS / "macro_f1.py", words])
        entries = ["loss", "macro_f1", {"kind": "token_f1", "name": "f1_all", "articles": True}, "words"]
        few = {"max_new_tokens": 3, "global_examples": 6, "unseen_examples": 0, "metrics": entries}
        path = write_config(
            folder, evaluation=few, personalization=[], baselines={"local": None, "central": None}
        )
        return run(load_config(path), folder / "out").path


def test_plugin_metrics_are_scored_and_recorded(finished):
    results = pl.read_parquet(finished / "results.parquet")
    assert set(results["metric"]) == {"loss", "macro_f1", "f1_all", "words"}
    assert results.filter(metric="macro_f1", scope="global")["count"].unique().to_list() == [6]
    for name in ("environment", "summary"):
        facts = json.loads((finished / f"{name}.json").read_text())["metrics"]
        assert facts["words"]["title"] == "Surplus words"
        assert facts["words"]["lower_is_better"]
    recorded = json.loads((finished / "environment.json").read_text())["plugins"]
    assert recorded["metric macro_f1"].startswith("macro_f1.py, sha256 ")


def test_reports_show_plugin_metrics_without_the_plugin(finished, monkeypatch):
    for kind in ("macro_f1", "token_f1", "words"):  # another test may have loaded the files
        monkeypatch.delitem(Metric.family.kinds, kind, raising=False)
    monkeypatch.setattr("fedprofit.report.figure.save_tradeoff", lambda figure, folder: [folder])
    write_report(finished, Console(file=StringIO(), width=80))
    table, page = ((finished / name).read_text("utf-8") for name in ("table.md", "report.html"))
    for heading in (
        "Macro-F1, 0 to 100, higher is better",
        "Token F1 (f1_all), 0 to 100, higher is better",
        "Surplus words in words, lower is better",
    ):
        assert heading in table
        assert heading in page
    shown = {one["key"]: one for one in page_data(open_tables(finished))["metrics"]}
    assert shown["words"]["lower"]
    assert shown["f1_all"]["title"] == "Token F1 (f1_all)"
    assert not shown["macro_f1"]["lower"]


ACCUMULATED = '''
from dataclasses import dataclass

from fedprofit.evaluate.accumulate import Counts
from fedprofit.evaluate.metrics.base import Metric


class Total(Counts):
    @property
    def value(self):
        return {value}


class Bad(Metric, kind="bad"):
    """Wrong for sets."""

    title = "Bad"
    bounds = (0, 1)

    def accumulate(self, answer, score):
        return {one}

    def empty(self):
        return Total({{}})
'''
SCORED = '''
from fedprofit.evaluate.metrics.base import Metric


class Bad(Metric, kind="bad"):
    """Wrong for an example."""

    title = "Bad"
    bounds = (0, 1)

    def score(self, answer):
        return {value}
'''
ROW = "example 7 of task 'poems'"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (SCORED.format(value="2"), f"score 2 for {ROW} is out of its bounds, 0 to 1"),
        (SCORED.format(value="-0.5"), f"score -0.5 for {ROW} is out of its bounds, 0 to 1"),
        (SCORED.format(value="float('nan')"), f"score nan for {ROW} is NaN"),
        (SCORED.format(value="float('inf')"), f"score inf for {ROW} is out of its bounds"),
        (SCORED.format(value="'x' * 200"), f"xx… for {ROW} is not a number"),
        (SCORED.format(value="None"), f"score None for {ROW} is not a number"),
        (SCORED.format(value="answer.nothing"), f"fails for {ROW} (AttributeError: 'Answer' object"),
        (SCORED.format(value="1 / 0"), f"fails for {ROW} (ZeroDivisionError: division by zero)"),
        (ACCUMULATED.format(value="7", one="Total({0: 1})"), "value 7.0 for a test is out of its bounds"),
        (ACCUMULATED.format(value="float('nan')", one="Total({0: 1})"), "value nan for a test is NaN"),
        (ACCUMULATED.format(value="1", one="Total({0: 0.5})"), "fails for a test (TypeError"),
        (ACCUMULATED.format(value="1", one="1.0"), f"fails for {ROW} (AttributeError"),
    ],
)
def test_wrong_metric_is_named_with_file_and_value(tmp_path, source, said):
    path = tmp_path / "bad.py"
    path.write_text(source, encoding="utf-8")
    plugins.load_files([path])
    line = source[: source.index("class Bad")].count("\n") + 1
    with pytest.raises(UserError) as caught:
        value(Metric.family.find("bad")(), [answered("red", "red", row=7, task="poems")])
    assert f"metric 'bad' ({path}:{line}): " in str(caught.value)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


def test_metric_of_infinite_loss_may_be_infinite(tmp_path):
    metric = Metric.family.find("loss")()
    assert value(metric, [answered(None, "", loss=float("inf"))]) == float("inf")
    (record,) = judge([answered(None, "", loss=float("nan"))], [metric]).records
    assert np.isnan(record.scores["loss"])


def test_metric_that_always_fails_leaves_no_folder(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(SCORED.format(value="2"), encoding="utf-8")
    plugins.load_files([path])
    config = load_config(write_config(tmp_path, evaluation={"metrics": ["bad"]}))
    with pytest.raises(UserError, match=r"metric 'bad' .*score 2 for example 0 of task"):
        run(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_metric_that_fails_for_answers_leaves_no_part(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(SCORED.format(value="1.0 if answer.text in answer.references else 'no'"), "utf-8")
    plugins.load_files([path])
    config = load_config(write_config(tmp_path, evaluation={"metrics": ["bad"], "max_new_tokens": 2}))
    with pytest.raises(
        UserError, match=r"metric 'bad' .*bad.py:5\): score 'no' for example \d+ of task 'job"
    ):
        run(config, tmp_path / "out")
    written = {file.name for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert not {name for name in written if name.endswith((".parquet", ".tmp")) or name == "summary.json"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({'    """Wrong for an example."""': ""}, "the metric 'bad' has no docstring"),
        ({'title = "Bad"': "digits = 2"}, "the metric 'bad' has no title"),
        ({"(0, 1)": "(1, 0)"}, "the metric 'bad' has bounds (1, 0)"),
        ({'kind="bad"': 'kind="loss"'}, "registers the metric 'loss', which already exists"),
    ],
)
def test_incomplete_metric_is_refused_with_file_and_line(tmp_path, change, said):
    source = SCORED.format(value="1")
    for old, new in change.items():
        source = source.replace(old, new)
    path = tmp_path / "bad.py"
    path.write_text(source, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        plugins.load_files([path])
    assert said in str(caught.value)
    assert f"{path}:5" in str(caught.value)
