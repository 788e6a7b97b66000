"""Data in memory of any type is read like a table, and its errors are named."""

import sys

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from fedprofit.config.file import from_mapping, to_yaml
from fedprofit.core import yaml_text
from fedprofit.core.errors import UserError
from fedprofit.data.memory import dataset, read_rows
from fedprofit.data.partition import partition
from fedprofit.data.sources import fingerprint, read_source
from fedprofit.data.sources.base import Columns
from fedprofit.data.tables.reading import Reading

ROWS = [
    {"client": "ann", "input": "2 + 2", "target": "4", "split": "train"},
    {"client": "ann", "input": "naïve", "target": "x", "split": "test"},
    {"client": "bob", "input": "2 + 3", "target": "5", "split": "train"},
]
COLUMNS = {key: [row[key] for row in ROWS] for key in ROWS[0]}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDPROFIT_CACHE", str(tmp_path / "cache"))


class Object:
    """A minimal object with the three methods."""

    rows = {  # noqa: RUF012
        ("train", "ann"): {"train": [("a", "b"), ("c", "d")], "test": [("e", "f")]},
        ("validation", "cid"): {"train": [("g", "h")], "validation": [("i", "j")], "test": [("k", "l")]},
        ("test", "bob"): {"train": [("m", "n")], "test": [("o", "p")]},
    }

    def clients(self, group):
        return [client for of, client in self.rows if of == group]

    def examples(self, client, split):
        (splits,) = (splits for (_, name), splits in self.rows.items() if name == client)
        return [{"input": a, "target": b, "task": f"of {client}"} for a, b in splits.get(split, ())]

    def unseen(self):
        return [{"input": "q", "target": "r", "task": "foreign"}]


def pandas(_):
    return pytest.importorskip("pandas").DataFrame(COLUMNS)


def hub(_):
    return pytest.importorskip("datasets").Dataset.from_list(ROWS)


def hub_splits(_):
    datasets = pytest.importorskip("datasets")
    parts = {
        split: [{k: v for k, v in row.items() if k != "split"} for row in ROWS if row["split"] == split]
        for split in ("train", "test")
    }
    return datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split, rows in parts.items()})


def clients(_):
    return {
        name: [{k: v for k, v in row.items() if k != "client"} for row in ROWS if row["client"] == name]
        for name in ("ann", "bob")
    }


def clients_and_splits(_):
    def part(name, split):
        kept = (row for row in ROWS if (row["client"], row["split"]) == (name, split))
        return [{"input": row["input"], "target": row["target"]} for row in kept]

    return {name: {split: part(name, split) for split in ("train", "test")} for name in ("ann", "bob")}


@pytest.mark.parametrize(
    "make",
    [
        lambda _: ROWS,
        lambda _: tuple(ROWS),
        lambda _: COLUMNS,
        lambda _: pl.DataFrame(COLUMNS),
        lambda _: pl.LazyFrame(COLUMNS),
        lambda _: pa.table(COLUMNS),
        pandas,
        hub,
        hub_splits,
        clients,
        clients_and_splits,
    ],
)
def test_data_from_memory_gives_the_rows_it_holds(make):
    source = dataset(make(None))
    pool = read_source(source, 0)
    found = {(row["client"], row["input"], row["targets"][0], row["split"]) for row in pool.to_pylist()}
    assert found == {(row["client"], row["input"], row["target"], row["split"]) for row in ROWS}
    assert source.has_clients
    assert fingerprint(source, 0) == fingerprint(dataset(make(None)), 0)


def test_saved_datasets_are_read_by_their_folder(tmp_path):
    hub_splits(None).save_to_disk(tmp_path / "saved")
    settings = {"kind": "hub", "name": str(tmp_path / "saved"), "columns": {"client": "client"}}
    pool = read_source(configured(settings).data.source, 0)
    assert sorted(pool["input"].to_pylist()) == sorted(row["input"] for row in ROWS)


def configured(source, **data):
    return from_mapping(
        {"name": "m", "data": {"source": source, **data}, "training": {"algorithms": [{"kind": "fedsgd"}]}}
    )


def test_structure_gives_columns_that_are_not_named():
    for data in (hub_splits(None), clients_and_splits(None), Object()):
        source = dataset(data, Columns(client="client"))
        assert (source.columns.client, source.columns.split) == ("client", "split")
        assert set(read_source(source, 0)["split"].to_pylist()) >= {"train", "test"}


def test_configuration_holds_the_hash_of_rows():
    config = configured(dataset(ROWS))
    text = to_yaml(config)
    assert "naïve" not in text
    assert from_mapping(yaml_text.load(text)) == config
    assert dataset([*ROWS, ROWS[0]]).rows != config.data.source.rows


def test_rows_that_the_cache_lacks_are_named():
    source = dataset(ROWS)
    source.path.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"rows-.*parquet: is damaged"):
        read_source(source, 0)
    pl.DataFrame({"input": ["other"], "target": ["rows"]}).write_parquet(source.path)
    with pytest.raises(UserError, match=r"rows-.*parquet: is damaged"):
        read_source(source, 0)
    source.path.unlink()
    with pytest.raises(UserError, match=rf"{source.rows} are not in the cache .*memory\.dataset"):
        read_source(source, 0)


def test_numbers_become_text_as_in_a_table():
    values = [3, 0.5, 1e-7, np.int64(2), np.float32(0.25), True]
    pool = read_rows([{"input": "x", "target": value} for value in values[:-1]], "numbers")
    assert pool["targets"].to_pylist() == [["3"], ["0.5"], ["0.0000001"], ["2"], ["0.25"]]
    pool = read_rows([{"input": 1, "target": ["a", 2]}, {"input": True, "target": ["b"]}][:1], "lists")
    assert pool["targets"].to_pylist() == [["a", "2"]]


def test_columns_are_named_or_found():
    rows = [{"q": "a", "target": "b", "job": "t"}]
    source = dataset(rows, {"input": "q", "task": "job"})
    assert read_source(source, 0)["task"].to_pylist() == ["t"]
    for columns, said in (
        (None, r"there is no column 'input'; .*columns=\{\"input\""),
        ({"input": "p"}, r"no column 'p' \(columns: input\)"),
        ({"inptu": "q"}, r"columns names 'inptu'; did you mean 'input'"),
    ):
        with pytest.raises(UserError, match=said):
            dataset(rows, columns)


def test_bad_rows_are_refused_or_skipped_when_read():
    source = dataset([*ROWS, {**ROWS[0], "target": None}])
    with pytest.raises(UserError, match=r"data row 4, target: the target is missing \(null\), client 'ann'"):
        read_source(source, 0)
    assert read_source(source, 0, Reading(skip=True)).num_rows == 3


def test_object_gives_clients_groups_and_unseen_rows():
    config = configured(dataset(Object()), clients={"train": 1, "validation": 1, "test": 1}, examples=None)
    pool = read_source(config.data.source, 0)
    for seed in range(4):
        made = partition(pool, config.data, seed)
        assert dict(zip(made.clients.to_pylist(), made.groups.tolist(), strict=True)) == {
            "ann": 0,
            "cid": 1,
            "bob": 2,
        }
        assert pool["input"].take(pa.array(made.unseen)).to_pylist() == ["q"]
        assert len(made.rows) == pool.num_rows - 1
    fewer = config.data.model_copy(
        update={"clients": config.data.clients.model_copy(update={"test": 2, "train": 0})}
    )
    with pytest.raises(UserError, match=r"asks for 2 test clients, and the source names 1"):
        partition(pool, fewer, 0)


class Lying(list):
    def __init__(self, rows, length):
        super().__init__(rows)
        self.length = length

    def __len__(self):
        return self.length


class Endless:
    """Reports two rows and never ends."""

    def __len__(self):
        return 2

    def __getitem__(self, position):
        return {"input": "a", "target": "b", "task": "t"}


def changed(**methods):
    return type("Changed", (Object,), {name: staticmethod(value) for name, value in methods.items()})()


ROW = {"input": "a", "target": "b", "task": "t"}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (lambda: {"ann": Lying(ROWS[:3], 5)}, r"client 'ann': len\(\) is 5, and iteration yields 3 rows"),
        (
            lambda: changed(examples=lambda client, split: Lying([ROW] * 3, 5)),
            r"\(Changed\): client 'ann', split 'train': len\(\) is 5, and iteration yields 3 rows",
        ),
        (
            lambda: changed(examples=lambda client, split: Endless()),
            r"client 'ann', split 'train': len\(\) is 2, and iteration yields more rows",
        ),
        (
            lambda: changed(clients=lambda group: Lying(["ann"], 2)),
            r"clients\('train'\): len\(\) is 2, and iteration yields 1 names",
        ),
        (
            lambda: changed(examples=lambda client, split: [ROW, {"input": "a", "task": "t"}]),
            r"client 'ann', split 'train', row 2: there is no key 'target'; known: input, task",
        ),
        (
            lambda: changed(examples=lambda client, split: [ROW, {**ROW, "input": {"a": 1}}]),
            r"client 'ann', split 'train', row 2, input: an object where text is expected \(\{'a': 1\}\)",
        ),
        (
            lambda: changed(examples=lambda client, split: [ROW, "text"]),
            r"client 'ann', split 'train': row 2 is 'text', not a mapping",
        ),
        (lambda: changed(examples=lambda client, split: 3), r"client 'ann', split 'train': found 3"),
        (
            lambda: changed(examples=lambda client, split: {}[split]),
            r"client 'ann', split 'train': failed \(KeyError: 'train'\)",
        ),
        (lambda: changed(clients=lambda group: ["ann"]), r"'ann' is a train client and a validation client"),
        (lambda: changed(clients=lambda group: [3]), r"clients\('train'\): a name is 3, not text"),
        (lambda: changed(unseen=lambda: [{**ROW, "target": b"x"}]), r"unseen\(\), row 1, target: bytes"),
        (lambda: [ROWS[0], {**ROWS[1], "input": [1]}], r"client 'ann', split 'test', row 2, input: a list"),
        (lambda: [ROWS[0], {"input": "a", "target": "b"}], r"row 2: there is no key 'client'"),
        (lambda: {"ann": {"trian": ROWS}}, r"client 'ann' has a split 'trian'; did you mean 'train'"),
        (lambda: {"input": ["a"], "target": []}, r"the columns differ in length"),
        (lambda: [], "it holds no rows"),
        (lambda: "rows.csv", r"found 'rows.csv'\. Give a list of dicts"),
        (lambda: object(), r"found a object\. Give a list of dicts"),
    ],
)  # fmt: skip
def test_wrong_data_is_named(data, said):
    with pytest.raises(UserError, match=said):
        dataset(data())


def test_unseen_rows_need_separate_tasks():
    data = changed(unseen=lambda: [{"input": "q", "target": "r", "task": "of ann"}])
    config = configured(dataset(data), clients={"train": 1, "validation": 1, "test": 1}, examples=None)
    with pytest.raises(UserError, match=r"unseen are of the task 'of ann'"):
        partition(read_source(config.data.source, 0), config.data, 0)


def test_memory_is_read_without_other_libraries(monkeypatch):
    for name in ("pandas", "datasets"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert read_source(dataset(ROWS), 0).num_rows == 3
    assert "datasets" not in sys.modules
