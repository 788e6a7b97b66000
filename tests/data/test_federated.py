"""The federated data set: lazy examples from a source, and from the cache the second time."""

import json
import os
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tiny import tiny_backbone, tiny_tokenizer
from transformers import ByT5Tokenizer

from fedprofit.config.file import from_mapping
from fedprofit.core.errors import UserError
from fedprofit.data import federated
from fedprofit.data.federated import FederatedDataset, Names, open_dataset, stratified
from fedprofit.data.partition import Assignment
from fedprofit.data.pool import POOL_SCHEMA, SPLITS
from fedprofit.data.store import Examples, ExampleStore, write_store

COLUMNS = {"client": "who", "task": "task", "definition": "what", "split": "part"}
WHO = ["zoë", "bob", "Ann", "b", "漢", "bob 2"]


def config(**data):
    data = {"clients": {"train": 3, "validation": 1, "test": 2}, "examples": None, **data}
    run = {"name": "t", "data": data, "training": {"algorithms": [{"kind": "fedsgd", "name": "a"}]}}
    return from_mapping(run).data


def table_rows():
    """Six clients; two tasks, one with a definition; each client's ten rows are split 6, 2 and 2."""
    split = ["train"] * 6 + ["validation"] * 2 + ["test"] * 2
    return [
        {
            "who": who,
            "task": f"task {'ab'[n % 2]}",
            "what": ["", "Double it"][n % 2],
            "part": split[n],
            "input": f"{who} asks {n}",
            "target": [f"answer {n} to {who}", "another"],
        }
        for n in range(10)
        for who in WHO
    ]


def write_table(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDPROFIT_CACHE", str(tmp_path / "cache"))
    path = write_table(tmp_path, table_rows())
    return config(source={"kind": "table", "path": str(path), "columns": COLUMNS})


def decoded(example):
    tokens = np.concatenate([example.prefix, example.source, example.target])
    return tiny_tokenizer().decode(tokens.tolist())


def expected(row):
    head = "Definition: Double it.\n\nNow complete the following example -\n" if row["what"] else ""
    return f"{head}Input: {row['input']}\nOutput: {row['target'][0]}</s>"


def test_examples_of_client_are_its_rows(table):
    dataset = open_dataset(table, tiny_backbone(), seed=0)
    groups = {group: list(dataset.clients(group)) for group in ("train", "validation", "test")}
    assert [len(names) for names in groups.values()] == [3, 1, 2]
    assert sorted(name for names in groups.values() for name in names) == sorted(WHO)
    assert all(names == sorted(names) for names in groups.values())
    for who in WHO:
        for split in ("train", "validation", "test"):
            rows = [row for row in table_rows() if row["who"] == who and row["part"] == split]
            examples = dataset.examples(who, split)
            assert len(examples) == len(rows)
            by_text = {decoded(example): example for example in examples}
            assert set(by_text) == {expected(row) for row in rows}
            for row in rows:
                example = by_text[expected(row)]
                assert (example.task, example.references) == (row["task"], tuple(row["target"]))
    pooled = dataset.pooled("train", "validation")
    assert [decoded(e) for e in pooled] == [
        decoded(e) for who in groups["train"] for e in dataset.examples(who, "validation")
    ]
    longest = max(len(e.prefix) + len(e.source) + len(e.target) for e in dataset.store)
    assert dataset.store.longest() == longest


def test_views_are_sequences(table):
    dataset = open_dataset(table, tiny_backbone(), seed=0)
    names = dataset.clients("train")
    assert isinstance(names, Names)
    assert isinstance(names[1:], Names)
    assert list(names[1:]) == list(names)[1:]
    assert names[-1] == list(names)[-1]
    examples = dataset.examples("bob", "train")
    assert isinstance(examples[2:4], Examples)
    assert [decoded(e) for e in examples[2:4]] == [decoded(e) for e in examples.take([2, 3])]
    for view in (names, examples):
        with pytest.raises(IndexError):
            view[len(view)]


@pytest.mark.parametrize(
    ("name", "hint"), [("bobb", "did you mean 'bob'"), ("", "known: "), ("zzz", "known: ")]
)
def test_unknown_client_is_named(table, name, hint):
    dataset = open_dataset(table, tiny_backbone(), seed=0)
    with pytest.raises(UserError, match=f"client '{name}' is not in this data set .*{hint}"):
        dataset.examples(name, "train")


def test_second_opening_reads_the_cache(table, tmp_path, monkeypatch):
    first = open_dataset(table, tiny_backbone(), seed=0)
    assert len(list((tmp_path / "cache" / "data").iterdir())) == 2, "FEDPROFIT_CACHE says where"

    def no_reading(*_):
        raise AssertionError("the source was read again")

    monkeypatch.setattr(federated, "read_source", no_reading)
    second = open_dataset(table, tiny_backbone(), seed=0)
    assert second.fingerprint == first.fingerprint
    assert [decoded(e) for e in second.examples("zoë", "train")] == [
        decoded(e) for e in first.examples("zoë", "train")
    ]
    other = table.model_copy(update={"template": table.template.model_copy(update={"definition": False})})
    for changed in ((table, 1), (other, 0)):
        with pytest.raises(AssertionError, match="read again"):
            open_dataset(changed[0], tiny_backbone(), seed=changed[1])


def test_changed_file_is_reread(table, tmp_path):
    before = open_dataset(table, tiny_backbone(), seed=0)
    rows = table_rows()
    rows[0]["input"] = "changed"
    write_table(tmp_path, rows)
    after = open_dataset(table, tiny_backbone(), seed=0)
    assert after.fingerprint != before.fingerprint
    assert any("changed" in decoded(e) for e in after.examples(rows[0]["who"], "train"))
    assert not any("changed" in decoded(e) for e in before.examples(rows[0]["who"], "train"))


def test_error_leaves_no_incomplete_data_set(table, tmp_path):
    small = table.model_copy(update={"template": table.template.model_copy(update={"max_tokens": 8})})
    with pytest.raises(UserError, match=r"data\.template.*max_tokens"):
        open_dataset(small, tiny_backbone(), seed=0)
    assert not list((tmp_path / "cache" / "data").glob("*examples*"))
    assert not list((tmp_path / "cache" / "data").glob(".*"))


def test_names_with_line_breaks(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDPROFIT_CACHE", str(tmp_path / "cache"))
    rows = [{**row, "task": row["task"] + "\n\r\u2028 x"} for row in table_rows()]
    settings = config(source={"kind": "table", "path": str(write_table(tmp_path, rows)), "columns": COLUMNS})
    dataset = open_dataset(settings, tiny_backbone(), seed=0)
    assert sorted(dataset.tasks) == sorted({row["task"] for row in rows})


def test_lexicon_has_unseen_tasks():
    settings = config(
        source={
            "kind": "lexicon",
            "tasks": ["country_capital", "country_continent", "number_roman"],
            "instances": 20,
        },
        clients={"train": 2, "validation": 0, "test": 2},
        examples={"train": 4, "validation": 1, "test": 2},
        unseen_tasks=["number_roman"],
    )
    dataset = open_dataset(settings, tiny_backbone(), seed=0)
    clients = [*dataset.clients("train"), *dataset.clients("test")]
    assert len(clients) == 4
    for client in clients:
        assert [len(dataset.examples(client, split)) for split in ("train", "validation", "test")] == [
            4,
            1,
            2,
        ]
    seen = {example.task for client in clients for example in dataset.examples(client, "train")}
    assert seen == {"country_capital", "country_continent"}
    assert {example.task for example in dataset.unseen} == {"number_roman"}
    assert len(dataset.unseen) == 4, "a fifth of 20 are test rows"
    for example in dataset.unseen:
        text = decoded(example)
        assert text.startswith("Definition: ")
        assert text.endswith(f"\nOutput: {example.references[0]}</s>")
    index = dataset.tasks.index
    counts = dataset.task_counts().toarray()
    assert counts.sum(0)[[index("country_capital"), index("country_continent")]].tolist() == [8, 8]
    assert counts.sum(0)[index("number_roman")] == 0


class Words:
    """Replacement of a template: every instance becomes the same few tokens."""

    differing = checked = 0

    def __init__(self):
        self.trimmed = []

    def encode(self, instances):
        self.trimmed += [False] * len(instances)
        parts = tuple(np.full(size, 7, np.int32) for size in (3, 2, 1))
        return [parts] * len(instances)


def small_pool(tasks):
    columns = {name: [""] * len(tasks) for name in ("category", "definition", "input", "split", "client")}
    columns |= {"task": tasks, "targets": [["x"]] * len(tasks), "positives": [[]] * len(tasks)}
    return pa.table(
        {name: pa.array(columns[name], POOL_SCHEMA.field(name).type) for name in POOL_SCHEMA.names}
    )


@pytest.fixture
def mixed(tmp_path):
    """60 rows of a, 30 of b, 9 of c and one of d, shuffled."""
    tasks = [*"a" * 60, *"b" * 30, *"c" * 9, "d"]
    np.random.default_rng(0).shuffle(tasks)
    write_store(tmp_path / "store", small_pool(tasks), Words())
    store = ExampleStore(tmp_path / "store")
    return Examples(store, np.arange(100))


@pytest.mark.parametrize("count", [10, 33, 50, 99])
def test_stratified_sample_keeps_the_shares(mixed, count):
    sample = stratified(mixed, count, 0, "global")
    assert len(sample) == count
    assert len(set(sample.rows.tolist())) == count
    found = Counter(example.task for example in sample)
    for task, size in {"a": 60, "b": 30, "c": 9, "d": 1}.items():
        assert abs(found[task] - count * size / 100) <= 1


def test_stratified_sample_depends_on_seed_and_purpose(mixed):
    rows = {
        key: tuple(stratified(mixed, 30, *key).rows) for key in [(0, "global"), (1, "global"), (0, "unseen")]
    }
    assert len(set(rows.values())) == 3
    assert tuple(stratified(mixed, 30, 0, "global").rows) == rows[0, "global"]
    assert set(stratified(mixed, 20, 0, "global").rows) < set(rows[0, "global"]), (
        "a smaller one is part of it"
    )
    assert len(stratified(mixed, 500, 0, "global")) == 100
    assert len(stratified(mixed[:0], 5, 0, "global")) == 0


def test_rows_are_sampled_uniformly(mixed):
    taken = Counter(int(row) for seed in range(300) for row in stratified(mixed, 10, seed, "s").rows)
    of_a = [taken[int(row)] for row in mixed.rows if mixed.store[int(row)].task == "a"]
    assert min(of_a) > 0, "no row is left out for ever"
    assert abs(np.mean(of_a) - 30) < 1
    assert max(of_a) < 60


CLIENTS = 200_000


def test_many_clients_need_no_memory(tmp_path):
    names = pa.array([f"client-{number:06d}" for number in range(CLIENTS)])
    groups = np.zeros(CLIENTS, np.int8)
    groups[-1000:] = 2
    indptr = np.repeat(np.arange(CLIENTS + 1, dtype=np.int64), 3)[2:]  # one train row each
    assignment = Assignment(names, groups, indptr, np.arange(CLIENTS) % 50, np.zeros(0, np.int64))
    federated._write_clients(tmp_path / "clients", assignment)
    write_store(tmp_path / "examples", small_pool(["t"] * 50), Words())
    del names, groups, indptr, assignment

    tracemalloc.start()
    dataset = FederatedDataset(tmp_path / "examples", tmp_path / "clients")
    clients = dataset.clients("train")
    read = [dataset.examples(clients[k], "train")[0] for k in range(0, CLIENTS - 1000, 1990)]
    used, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(clients) == CLIENTS - 1000
    assert len(read) == 100
    assert len(dataset.examples("client-199999", "train")) == 1
    # 200 000 names as a list would take 13 MB; 8 bytes per client of the group are needed for its position.
    assert used < 2.5e6
    assert most < 6e6


def test_tokenizer_without_backend_is_accepted(table):
    """Some tokenizers written in Python have none."""
    backbone = replace(tiny_backbone(), tokenizer=ByT5Tokenizer())
    example = open_dataset(table, backbone, seed=0).examples("bob", "train")[0]
    read = np.concatenate([example.prefix, example.source, example.target]).tolist()
    assert backbone.tokenizer.decode(read).endswith("</s>")
    assert backbone.tokenizer.decode(read).removesuffix("</s>").endswith(example.references[0])


def test_owners_of_changed_rows_are_refused(table, monkeypatch):
    """Like a data set on the hub that gets new rows under the same name."""
    monkeypatch.setattr(federated, "fingerprint", lambda *_: "the same")
    open_dataset(table, tiny_backbone(), seed=0)
    path = Path(table.source.path)
    path.write_text("\n".join(path.read_text().splitlines()[::-1]))
    assert open_dataset(table, tiny_backbone(), seed=0), "as it was read"
    with pytest.raises(UserError, match=r"has changed since .* Name a revision"):
        open_dataset(table, tiny_backbone(), seed=1)


def contents(dataset):
    return [(decoded(e), e.task, e.references) for g in SPLITS for s in SPLITS for e in dataset.pooled(g, s)]


@pytest.mark.parametrize(
    "name", ["tokens.bin", "references.arrow", "tasks.json", "rows.npy", "names.arrow", "checksums.json"]
)
def test_damaged_folder_is_recreated(table, tmp_path, caplog, name):
    expected = contents(open_dataset(table, tiny_backbone(), seed=0))
    (file, *_) = sorted((tmp_path / "cache" / "data").glob(f"*/{name}"))
    original = file.read_bytes()
    times = file.stat()
    file.write_bytes(original[:-5] + bytes([original[-5] ^ 1]) + original[-4:])
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert contents(open_dataset(table, tiny_backbone(), seed=0)) == expected
    assert file.read_bytes() == original
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("fedprofit")]
    assert line.startswith("recreated: ")
    assert file.parent.name in line


def test_folder_without_checksums_is_recreated(table, tmp_path, caplog):
    """Earlier versions wrote none."""
    open_dataset(table, tiny_backbone(), seed=0)
    for file in (tmp_path / "cache" / "data").glob("*/checksums.json"):
        file.unlink()
    open_dataset(table, tiny_backbone(), seed=0)
    assert len(list((tmp_path / "cache" / "data").glob("*/checksums.json"))) == 2
    assert "has no checksums.json" in caplog.text
