"""Remarks on data sets: excluded and conspicuous rows and clients are counted, named and shown."""

import json

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console
from test_partition import config, groups, make_pool
from tiny import tiny_backbone

from fedprofit.config.file import from_mapping
from fedprofit.core.errors import UserError
from fedprofit.data.describe import describe, summary_table
from fedprofit.data.federated import open_dataset, prepare_clients
from fedprofit.data.partition import partition
from fedprofit.data.remarks import remarks_on
from fedprofit.runs.bench import prepare

NATURAL = {"partition": {"kind": "natural"}, "examples": None}


def rows_of(**clients):
    """One task; each client has this many different questions."""
    return [
        {"who": who, "ask": f"{who} {n}", "say": "x"} for who, count in clients.items() for n in range(count)
    ]


def dataset(tmp_path, monkeypatch, rows, **data):
    monkeypatch.setenv("FEDPROFIT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"client": "who", "input": "ask", "target": "say"}
    source = {"kind": "table", "path": str(path), "columns": columns}
    data = {"source": source, "examples": None, "clients": groups(1, 1, 1)} | data
    run = {"name": "t", "data": data, "training": {"algorithms": [{"kind": "fedsgd", "name": "a"}]}}
    return open_dataset(from_mapping(run).data, tiny_backbone(), seed=0)


def by_client(sizes):
    """A pool of one task whose clients have this many rows, without splits."""
    clients = np.repeat(np.array(list(sizes)), list(sizes.values())).tolist()
    return make_pool(1, len(clients), client=lambda n: clients[n], split="none")


def test_small_clients_are_excluded_and_named():
    pool = by_client({"a": 30, "b": 30, "c": 30, "tiny": 2, "two": 4})
    wanted = config(clients=groups(1, 1, 1), min_examples=5, **NATURAL)
    for seed in range(5):
        made = partition(pool, wanted, seed)
        assert made.clients.to_pylist() == ["a", "b", "c"]
        assert made.remarks == (
            ("clients set aside", "2 with fewer than data.min_examples: 5: 'tiny' (2), 'two' (4)"),
        )
    with pytest.raises(UserError, match=r"there are 3 \(set aside: .*'tiny'.*Lower data.clients or data.min"):
        partition(pool, config(clients=groups(2, 1, 1), min_examples=5, **NATURAL), 0)
    kept = partition(pool, config(clients=groups(3, 1, 1), **NATURAL), 0)
    assert set(kept.clients.to_pylist()) == {"a", "b", "c", "tiny", "two"}


def test_clients_unused_or_with_few_tests_are_named():
    pool = by_client({"a": 50, "b": 50, "few": 6, "e": 50})
    for seed in range(5):
        made = partition(pool, config(clients=groups(1, 1, 1), **NATURAL), seed)
        remarks = dict(made.remarks)
        [unused] = {"a", "b", "few", "e"} - set(made.clients.to_pylist())
        assert remarks["clients not used"] == f"1 of 4, as data.clients asks for 3: '{unused}'"
        assert ("few test examples" in remarks) == (unused != "few")
        if unused != "few":
            assert remarks["few test examples"].startswith("1 of 3 clients have fewer than 5: 'few' (")


def test_many_names_are_capped():
    pool = by_client({f"c{n:03d}": 2 for n in range(300)})
    remarks = dict(partition(pool, config(clients=groups(100, 0, 50), **NATURAL), 0).remarks)
    assert remarks["clients not used"].endswith(" and 130 more")
    assert remarks["few test examples"].startswith("150 of 150")
    assert remarks["few test examples"].endswith(" and 130 more")


@pytest.mark.parametrize("kind", ["task", "tasks", "dirichlet", "iid", "category"])
@pytest.mark.parametrize("examples", [None, groups(10, 3, 3)])
def test_rare_task_is_excluded_at_every_level(kind, examples):
    full = make_pool(tasks=8, rows=100)
    rows = [n for n in range(800) if n // 100 != 5 or n % 100 in (0, 3, 7)]  # three of t05, none a test row
    pool = full.take(pa.array(rows))
    for seed in range(3):
        wanted = config(clients=groups(8, 0, 8), examples=examples, partition={"kind": kind})
        made = partition(pool, wanted, seed)
        text = dict(made.remarks)["tasks set aside"]
        assert text == "1 of 8, with too few rows for the clients that would be given them: 't05' (3 rows)"
        assert "t05" not in set(pool["task"].take(pa.array(made.rows)).to_pylist())
        assert len(made.clients) == 16


def test_tasks_are_kept_when_few_would_remain():
    pool = make_pool(tasks=4, rows=50)
    with pytest.raises(UserError, match=r"task .* has 30 train rows, and 45 are needed"):
        partition(
            pool, config(clients=groups(4, 0, 0), examples=groups(45, 0, 0), partition={"kind": "task"}), 0
        )


def test_unseen_tasks_are_drawn_from_those_with_tests():
    full = make_pool(tasks=4, rows=40)
    pool = full.take(pa.array([n for n in range(160) if n < 120 or n % 5 < 3]))  # t03 has train rows only
    for seed in range(8):
        made = partition(
            pool, config(unseen_tasks=1, clients=groups(2, 0, 2), examples=groups(4, 1, 1)), seed
        )
        assert len(made.unseen) == 8


def test_look_alike_clients_are_named_together():
    ids = ["ann", "Ann", "jose\u0301", "jos\u00e9", "bob", "b\u200bob", "a b", "a\u00a0b", "other", "ﬁ", "fi"]
    pool = by_client(dict.fromkeys(ids, 2))
    [(what, text)] = remarks_on(pool)
    assert what == "clients that look alike"
    for pair in (
        "'Ann' and 'ann'",
        r"'jose\u0301' and 'jos\xe9'",
        r"'bob' and 'b\u200bob'",
        r"'a b' and 'a\xa0b'",
    ):
        assert pair in text
    assert r"'fi' and '\ufb01'" in text
    assert "other" not in text
    assert not remarks_on(by_client({"ann": 2, "bob": 2, "ann 2": 2, "bob-": 2}))


def test_duplicates_and_conflicts_are_counted():
    said = [
        ("a", "1", "x"),
        ("a", "1", "x"),
        ("a", "1 ", "x"),
        ("a", "2", "x"),
        ("a", "2", "y"),
        ("b", "1", "z"),
        ("b", "3", "x"),
    ]
    pool = by_client({"a": 5, "b": 2})
    for name, values in (("input", [one[1] for one in said]), ("targets", [[one[2]] for one in said])):
        position = pool.column_names.index(name)
        pool = pool.set_column(
            position, pool.schema.field(name), pa.array(values, pool.schema.field(name).type)
        )
    assert dict(remarks_on(pool)) == {
        "duplicate rows": "2 of 7 (same client, input and target)",
        "conflicting rows": "2 inputs with different targets (1 of them within one client)",
    }


def test_trimmed_inputs_are_counted_and_distinct(tmp_path, monkeypatch):
    rows = rows_of(a=30, b=30, c=30)
    for row in rows[:40]:
        row["ask"] = "word " * 100 + row["ask"]
    made = dataset(tmp_path, monkeypatch, rows, template={"max_tokens": 60})
    assert dict(made.remarks())["trimmed examples"] == "40 of 90, to data.template.max_tokens"
    facts = describe(made)
    assert facts.known_examples == 0, "they differ where they are cut off"
    again = dataset(tmp_path, monkeypatch, [*rows, *({**row, "who": "b"} for row in rows[:1])])
    assert "trimmed examples" not in dict(again.remarks())


def test_remarks_are_kept_with_the_data_and_shown(tmp_path, monkeypatch):
    rows = [*rows_of(a=30, b=30, c=30, d=30, tiny=2), {"who": "a", "ask": "x", "say": ""}]
    settings = {"bad_rows": "skip", "min_examples": 3}
    first = dataset(tmp_path, monkeypatch, rows, **settings).remarks()
    assert [what for what, _ in first] == ["rows left out", "clients set aside", "clients not used"]
    again = dataset(tmp_path, monkeypatch, rows, **settings)  # from the cache
    assert again.remarks() == first
    console = Console(width=80, record=True, file=open("/dev/null", "w"), markup=False)  # noqa: SIM115
    console.print(summary_table(describe(again)))
    shown = " ".join(console.export_text().replace("│", " ").split())
    for words in ("rows left out 1 of 123", "by client: 'a' 1", "'tiny' (2)", "clients not used 1 of 4"):
        assert words in shown
    assert max(map(len, console.export_text(clear=False).splitlines()), default=0) <= 80


def test_shortage_of_tasks_names_the_limits(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDPROFIT_CACHE", str(tmp_path / "cache"))
    for name, length in (("task001_short", 2), ("task002_long", 90), ("task003_longer", 95)):
        instances = [{"input": f"{n} " * length, "output": ["x"]} for n in range(20)]
        task = {"Definition": "Do it", "Categories": ["C"], "Positive Examples": [], "Instances": instances}
        (tmp_path / f"{name}.json").write_text(json.dumps(task))
    wanted = config(source={"kind": "sni", "path": str(tmp_path), "max_words": 10}, unseen_tasks=1)
    with pytest.raises(UserError, match=r"Set it to 0\. Of 3 tasks 2 were excluded: 2 by max_words: 10"):
        prepare_clients(wanted, 0)


def test_data_is_checked_before_a_model_is_loaded(tmp_path):
    run = {"name": "t", "data": {"source": {"kind": "table", "path": str(tmp_path / "none.csv")}}}
    run |= {
        "training": {"algorithms": [{"kind": "fedsgd", "name": "a"}]},
        "backbone": {"name": "no-such-model"},
    }
    with pytest.raises(UserError, match="there is no such file"):
        prepare(from_mapping(run))
