"""Worst examples in reports: order, truncation and escaping."""

from io import StringIO
from pathlib import Path

import polars as pl
import pytest

from fedprofit.analyze.tables import Tables
from fedprofit.core.terminal import Terminal
from fedprofit.evaluate.worst import COLUMNS
from fedprofit.report.examples import print_worst, worst_examples, worst_markdown
from fedprofit.report.page.data import _worst

MARKUP = "<img src=x onerror=alert(1)>|[red]\x1b[31m"


def worst(run, client, mean, answer):
    """Return the rows of one example, for two methods."""
    common = dict.fromkeys(COLUMNS) | {
        "rank": 1, "mean": mean, "client": client, "example": 7, "task": "job", "input": MARKUP,
        "reference": "wanted", "algorithm": "avg", "metric": "rouge_l", "loss": 2.0,
        "run": run, "seed": 3, "axis.level": "iid",
    }  # fmt: skip
    federated = {"condition": "federated", "setting": "last", "step": 3, "value": 50.0, "answer": "right"}
    tuned = {
        "condition": "personalized", "setting": "tune", "start": "last", "alpha": 1.0, "step": 2,
        "value": mean, "answer": answer,
    }  # fmt: skip
    return [{**common, **method} for method in (federated, tuned)]


@pytest.fixture
def tables():
    rows = [
        *worst("a", "ann", 40.0, "a" * 300),
        *worst("a", "bob", 10.0, MARKUP),
        *worst("b", "ann", 20.0, None),
    ]
    frame = pl.DataFrame(rows, infer_schema_length=None)
    return Tables(Path("here"), "made", True, ["level"], pl.DataFrame(), worst=frame)


def test_worst_examples_are_sorted_across_runs(tables):
    found = worst_examples(tables, most=2)
    assert [one.title for one in found] == [
        "level iid, client bob, task job, row 7",
        "level iid, client ann, task job, row 7",
    ]
    assert [answer.method for answer in found[0].answers] == ["avg, federated", "avg, tune, step 2"]
    assert [answer.value for answer in found[0].answers] == ["50.0", "10.0"]
    assert found[1].answers[1].text == "", "nothing was generated"


def test_long_answers_are_truncated(tables):
    (last,) = [one for one in worst_examples(tables) if one.answers[1].text.startswith("aaa")]
    assert last.answers[1].text.endswith("(60 more characters)")


def test_worst_examples_are_escaped_in_markdown_and_terminal(tables):
    written = worst_markdown(worst_examples(tables))
    assert "<img" not in written
    assert "&lt;img src=x onerror=alert(1)>\\|" in written
    assert "\x1b" not in written
    console = Terminal()
    console.file = StringIO()
    print_worst(console, worst_examples(tables))
    printed = console.file.getvalue()
    assert "[red]" in "".join(printed.split())
    assert "\\x1b[31m" in "".join(printed.split()).replace("┃", "").replace("│", "")


def test_page_data_contains_worst_examples(tables):
    first = _worst(tables)[0]
    assert (first["title"], first["scale"]) == ("level iid, client bob, task job, row 7", "ROUGE-L")
    assert first["answers"][1] == {"method": "avg, tune, step 2", "value": "10.0", "text": MARKUP}


def test_worst_examples_are_empty_without_records():
    assert worst_examples(Tables(Path("here"), "made", False, [], pl.DataFrame())) == []
