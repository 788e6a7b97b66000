"""Selection of tasks: trained prompts against trivial answers, on rows that no study scores."""

from collections import Counter
from statistics import fmean

import polars as pl
import pytest
from tiny_run import call, tiny_config, write_config

from fedprofit.config.file import from_mapping
from fedprofit.core.errors import UserError
from fedprofit.evaluate.text import rouge_l
from fedprofit.studies.selection import SCHEMA, select_tasks


def test_selection_compares_with_label_and_copied_input(tmp_path):
    config = from_mapping(tiny_config(tmp_path))
    found = select_tasks(config, margin=-1000.0)
    assert dict(found.table.schema) == {name: kind() for name, kind in SCHEMA.items()}
    assert sorted(found.tasks) == ["job0", "job1", "job2", "job3"]
    for row in found.table.to_dicts():
        assert row["skill"] == row["trained"] - max(row["majority"], row["copy_input"])
    assert select_tasks(config, margin=1000.0).tasks == []


def test_selection_scores_validation_rows_only(tmp_path):
    """The majority label of each task, from the table of rows itself."""
    columns = {"client": "who", "input": "ask", "target": "want", "task": "job", "definition": "rule"}
    config = tiny_config(tmp_path)
    rows = pl.read_ndjson(tmp_path / "table.jsonl").sort("job", "ask")
    split = pl.Series([["train", "train", "validation", "test"][n % 4] for n in range(len(rows))])
    rows = rows.with_columns(split.alias("part"))
    rows.write_ndjson(tmp_path / "split.jsonl")
    source = {"kind": "table", "path": str(tmp_path / "split.jsonl"), "columns": {**columns, "split": "part"}}
    config["data"]["source"] = {
        **source,
        "columns": {k: v for k, v in source["columns"].items() if k != "client"},
    }
    found = {row["task"]: row for row in select_tasks(from_mapping(config), -1000.0).table.to_dicts()}
    for (task,), own in rows.group_by("job"):
        train, scored = (own.filter(part=part) for part in ("train", "validation"))
        counts = Counter(train["want"])
        label = min(counts, key=lambda text: (-counts[text], text))
        assert found[task]["rows"] == len(scored)
        expected = fmean(rouge_l(label, [want], "rouge-score") for want in scored["want"])
        assert found[task]["majority"] == pytest.approx(expected)
        copied = fmean(
            rouge_l(ask, [want], "rouge-score") for ask, want in scored.select("ask", "want").rows()
        )
        assert found[task]["copy_input"] == pytest.approx(copied)


def test_selection_needs_a_central_baseline(tmp_path):
    config = tiny_config(tmp_path, baselines={"central": None})
    with pytest.raises(UserError, match=r"tiny: tasks: the prompts are trained as baselines\.central is"):
        select_tasks(from_mapping(config))


def test_tasks_command_refuses_tasks_at_the_floor(tmp_path):
    config = write_config(tmp_path)
    done = call("tasks", config, "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 2
    assert "no task enters" in " ".join(done.stderr.split())
    assert "0 of 4 tasks enter" in (tmp_path / "out" / "tasks.md").read_text()
    done = call("tasks", config, "--out", tmp_path / "out", "--margin", "-1000", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert pl.read_parquet(tmp_path / "out" / "tasks.parquet")["enters"].all()
