"""The description of a data set, compared with numbers computed by hand."""

import json
import re
from collections import Counter
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console
from scipy.sparse import csr_array
from tiny import tiny_backbone

import fedprofit.data.describe as describing
from fedprofit.config.file import from_mapping
from fedprofit.core.errors import UserError
from fedprofit.data.describe import Description, client_table, describe, save_picture, summary_table
from fedprofit.data.federated import open_dataset

# Train examples by client and task. The pool has a: 8, b: 6, c: 2 of 16.
MIX = {"ann": {"a": 4}, "bob": {"b": 4}, "cid": {"a": 2, "b": 2}, "dan": {"a": 2, "c": 2}}
# Total variation from (1/2, 3/8, 1/8): ann 1/2, bob 5/8, cid 1/8, dan 3/8; mean 13/32.
HETEROGENEITY = 13 / 32


@pytest.fixture
def rows():
    rows = [
        {"who": who, "task": task, "part": "train", "input": f"{who} {task} {n}", "target": "x"}
        for who, mix in MIX.items()
        for task, count in mix.items()
        for n in range(count)
    ]
    for who in MIX:
        rows.append({"who": who, "task": "a", "part": "test", "input": f"{who} test", "target": "x"})
        rows.append({"who": who, "task": "hidden", "part": "test", "input": f"{who} unseen", "target": "x"})
    rows.append({"who": "cid", "task": "b", "part": "validation", "input": "check", "target": "x"})
    return rows


@pytest.fixture
def facts(rows, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDPROFIT_CACHE", str(tmp_path / "cache"))
    return described(rows, tmp_path)


def described(rows, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"client": "who", "task": "task", "split": "part"}
    data = {
        "source": {"kind": "table", "path": str(path), "columns": columns},
        "clients": {"train": 2, "validation": 1, "test": 1},
        "examples": None,
        "unseen_tasks": ["hidden"],
    }
    run = {"name": "t", "data": data, "training": {"algorithms": [{"kind": "fedsgd", "name": "a"}]}}
    return describe(open_dataset(from_mapping(run).data, tiny_backbone(), seed=0))


def test_counts_and_heterogeneity(facts):
    assert facts.clients == {"train": 2, "validation": 1, "test": 1}
    assert facts.examples == {"train": 16, "validation": 1, "test": 4}
    assert facts.unseen_examples == 4
    assert facts.tasks == ["a", "b", "c"]
    assert facts.heterogeneity == pytest.approx(HETEROGENEITY)
    names = [re.fullmatch(r"(\w+) \((\w+)\)", title).groups() for title in facts.titles]
    assert [group for _, group in names] == ["train", "train", "validation", "test"]
    assert sorted(name for name, _ in names) == sorted(MIX)
    for (name, _), row in zip(names, facts.counts.toarray().tolist(), strict=True):
        assert {task: n for task, n in zip(facts.tasks, row, strict=True) if n} == MIX[name]


def test_test_inputs_in_train_data_are_counted(rows, facts, tmp_path):
    assert facts.known_examples == 0
    assert "trained on" not in printed(summary_table(facts))
    tests = {row["who"]: row for row in rows if row["part"] == "test" and row["task"] == "a"}
    tests["ann"]["input"] = tests["cid"]["input"] = "cid a 0"  # another client's, and its own
    next(row for row in rows if row["input"] == "ann a 0")["input"] = "cid a 0"  # two train on it
    tests["dan"]["input"] = "dan a 1"  # its own
    tests["bob"]["input"] = "bob b 0"  # asked in another task
    facts = described(rows, tmp_path)
    assert facts.known_examples == 3
    assert "3 of 4" in printed(summary_table(facts))


def printed(table):
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def test_tables(facts):
    summary = printed(summary_table(facts))
    for words in ("2 train, 1 validation, 1 test", "16 train, 1 validation, 4 test", "0.406"):
        assert words in summary
    clients = printed(client_table(facts, most=3))
    assert len(re.findall(r"\((train|validation|test)\)", clients)) == 3
    assert "1 more clients" in clients
    assert "a 2, b 2" in printed(client_table(facts))


def test_png_picture(facts, tmp_path):
    save_picture(facts, tmp_path / "mix.png")
    pixels = matplotlib.image.imread(tmp_path / "mix.png")
    assert pixels.shape[0] > 200
    assert pixels.shape[1] > 200
    # Of twelve cells, six have share 0, four 1/2 and two 1: each colour covers this area.
    colours = Counter(map(tuple, pixels[..., :3].reshape(-1, 3).tolist()))
    del colours[1.0, 1.0, 1.0]
    areas = [area for _, area in colours.most_common(3)]
    assert [round(6 * area / areas[0], 1) for area in areas] == pytest.approx([6, 4, 2], abs=0.2)
    assert [p.name for p in tmp_path.glob("*mix*")] == ["mix.png"]


def test_svg_picture(facts, tmp_path):
    save_picture(facts, tmp_path / "mix.svg")
    text = (tmp_path / "mix.svg").read_text()
    assert text.startswith("<?xml")
    assert text.rstrip().endswith("</svg>")
    assert "heterogeneity 0.41" in text


def test_dollar_signs_in_names_are_unchanged(facts, tmp_path):
    named = replace(facts, tasks=[rf"$\frac {task}$" for task in facts.tasks])
    save_picture(named, tmp_path / "mix.svg")
    assert (tmp_path / "mix.svg").exists()


@pytest.mark.parametrize("name", ["mix", "mix.txt", "mix."])
def test_unknown_suffix_is_refused(facts, tmp_path, name):
    with pytest.raises(UserError, match=r"\.png, \.svg or \.pdf"):
        save_picture(facts, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_picture_shows_many_clients_and_tasks(tmp_path):
    counts = csr_array(np.eye(60, 50, dtype=np.int64))
    names, tasks = [f"client-{n}" for n in range(60)], [f"t{n}" for n in range(50)]
    facts = Description({"train": 60}, {"train": 50}, tasks, counts, names, ["train"] * 60, 0.98, 0, 0)
    save_picture(facts, tmp_path / "many.png")
    assert matplotlib.image.imread(tmp_path / "many.png").shape[1] < 3000
    assert "40 more clients" in printed(client_table(facts))


def test_picture_omits_clients_beyond_its_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(describing, "MOST_DRAWN", 30)
    counts = csr_array(np.eye(4000, 50, dtype=np.int64))
    names, tasks = [f"client-{n}" for n in range(4000)], ["t"] * 50
    facts = Description({"train": 4000}, {"train": 50}, tasks, counts, names, ["train"] * 4000, 0.98, 0, 0)
    save_picture(facts, tmp_path / "many.svg")
    assert "30 of 4000 clients, evenly spaced" in (tmp_path / "many.svg").read_text()
