import csv
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from fedprofit.core.errors import UserError
from fedprofit.data import lexicon
from fedprofit.data.lexicon.published import PACKAGES
from fedprofit.data.pool import POOL_SCHEMA
from fedprofit.data.sources import fingerprint, read_source
from fedprofit.data.sources.base import SourceSettings

ROWS: list[dict[str, Any]] = [
    {"q": 'what, "so"?\nreally', "a": "007", "who": "zoë", "part": "train", "when": "2020-01-31"},
    {"q": "second", "a": "NA", "who": "bob", "part": "dev", "when": "2020-02-01"},
    {"q": "third", "a": "true", "who": "bob", "part": "Test", "when": "2020-02-02"},
]
COLUMNS = {"input": "q", "target": "a", "client": "who", "split": "part", "definition": "when"}


def source(**settings: Any) -> SourceSettings:
    checked: SourceSettings = TypeAdapter(SourceSettings).validate_json(json.dumps(settings, default=str))
    return checked


def write(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"rows{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix.startswith(".csv"):
        opener = gzip.open if suffix.endswith("gz") else open
        with opener(path, "wt", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_rows(folder: Path, rows: list[dict[str, Any]], suffix: str = ".jsonl", **columns: str) -> pa.Table:
    path = write(folder, suffix, rows)
    return read_source(source(kind="table", path=path, columns=columns), 0)


def sni_task(folder: Path, name: str, category: str, outputs: list[list[str]]) -> None:
    task = {
        "Definition": [f"Do {name}."],
        "Categories": [category],
        "Positive Examples": [{"input": "one", "output": "two", "explanation": "because"}],
        "Instances": [{"id": f"{name}-{i}", "input": f"in {i}", "output": o} for i, o in enumerate(outputs)],
    }
    (folder / f"{name}.json").write_text(json.dumps(task), encoding="utf-8")


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    sni_task(tmp_path, "task007_sums", "Arithmetic", [["1", "one"], ["2"], ["3"], ["4"]])
    sni_task(tmp_path, "task008_names", "Names", [["a"], ["b b b b"]])
    sni_task(tmp_path, "task070_more_names", "Names", [["a"], ["b"], ["c"]])
    return tmp_path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".jsonl.gz", ".csv", ".csv.gz", ".parquet"])
def test_every_format_keeps_texts_as_they_are(tmp_path: Path, suffix: str) -> None:
    if suffix == ".jsonl.gz":
        path = tmp_path / "rows.jsonl.gz"
        path.write_bytes(gzip.compress(write(tmp_path, ".jsonl", ROWS).read_bytes()))
    else:
        path = write(tmp_path, suffix, ROWS)
    pool = read_source(source(kind="table", path=path, columns=COLUMNS), 0)
    assert pool.schema == POOL_SCHEMA
    assert pool["input"].to_pylist() == [row["q"] for row in ROWS]
    assert pool["targets"].to_pylist() == [["007"], ["NA"], ["true"]]
    assert pool["definition"].to_pylist() == [row["when"] for row in ROWS]
    assert pool["client"].to_pylist() == ["zoë", "bob", "bob"]
    assert pool["split"].to_pylist() == ["train", "validation", "test"]
    assert set(pool["task"].to_pylist()) == {"task"}
    assert pool["positives"].to_pylist() == [[], [], []]


def test_references_and_integers_are_read(tmp_path: Path) -> None:
    rows = [{"input": "x", "target": ["a", "b"], "n": 10}, {"input": "y", "target": ["c"], "n": 9}]
    for suffix in (".jsonl", ".parquet"):
        pool = read_rows(tmp_path, rows, suffix, client="n")
        assert pool["targets"].to_pylist() == [["a", "b"], ["c"]]
        assert pool["client"].to_pylist() == ["10", "9"]
        assert pool["split"].null_count == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"input": "x", "target": " "},
            r"rows.jsonl: line 2, target: the target is empty \(' '\), client 'c'",
        ),
        ({"input": "x", "target": None}, r"line 2, target: the target is missing \(null\)"),
        ({"input": "", "target": "y"}, "line 2, input: the input is empty"),
        ({"input": "x", "target": "y", "client": None}, r"line 2, client: the client is missing \(null\)"),
        ({"input": "x", "target": "y", "client": ""}, r"line 2, client: the client is empty \(''\)"),
        ({"input": "x", "target": "y", "task": None}, r"line 2, task: the task is missing \(null\)"),
        ({"input": "x", "target": "y", "split": "tset"}, r"line 2, split: not one of .* \('tset'\)"),
    ],
)
def test_bad_row_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    first = {"input": "x", "target": "y", "client": "c", "task": "t", "split": "train"}
    with pytest.raises(UserError, match=message):
        read_rows(tmp_path, [first, first | row], client="client", task="task", split="split")


def test_client_under_two_ids_is_named(tmp_path: Path) -> None:
    rows = [{"input": "x", "target": "y", "client": client} for client in ("bob", "ann", "bob ")]
    with pytest.raises(UserError, match=r"under several ids .*'bob' as \['bob', 'bob '\]"):
        read_rows(tmp_path, rows, client="client")


def test_empty_reference_is_found_in_later_chunk(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    targets = [["a"]] * 7 + [["a", ""]] + [[]]
    pq.write_table(pa.table({"input": ["x"] * 9, "target": targets}), path, row_group_size=3)
    with pytest.raises(UserError, match=r"row 9, target: the target is missing"):
        read_source(source(kind="table", path=path), 0)
    pq.write_table(pa.table({"input": ["x"] * 8, "target": targets[:8]}), path, row_group_size=3)
    with pytest.raises(UserError, match=r"row 8, target: the target is empty"):
        read_source(source(kind="table", path=path), 0)


def test_missing_column_suggests_nearest_name(tmp_path: Path) -> None:
    for suffix in (".jsonl", ".csv", ".parquet"):
        with pytest.raises(UserError, match=r"no column 'target' .*did you mean 'targets'"):
            read_rows(tmp_path, [{"input": "x", "targets": "y"}], suffix)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b""),
        ("a.jsonl", b'{"input": "x", "tar'),
        ("a.json", b'[{"input": "x", "target": "y"}]'),
        ("a.csv", b""),
        ("a.csv", b"input,target\nx,y\nz"),
        ("a.csv", b"input,target\n\xff\xfe,y\n"),
        ("a.csv", b"input,target\n"),
        ("a.csv.gz", b"not compressed"),
        ("a.parquet", b"PAR1"),
        ("a.xlsx", b"x"),
    ],
)
def test_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name) as caught:
        read_source(source(kind="table", path=tmp_path / name), 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["table", "sni"])
def test_missing_file_is_named(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match=r"none.jsonl: there is no such file"):
        read_source(source(kind=kind, path=tmp_path / "none.jsonl"), 0)


def test_official_task_files(tasks: Path) -> None:
    pool = read_source(source(kind="sni", path=tasks), 0)
    first = pool.slice(0, 1).to_pylist()[0]
    assert first == {
        "task": "task007_sums",
        "category": "Arithmetic",
        "definition": "Do task007_sums.",
        "positives": [{"input": "one", "output": "two"}],
        "input": "in 0",
        "targets": ["1", "one"],
        "split": None,
        "client": None,
    }
    assert pool.num_rows == 9


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({"tasks": ["7"]}, {"task007_sums": 4}),
        ({"tasks": ["task07", "task070_more_names"]}, {"task007_sums": 4, "task070_more_names": 3}),
        ({"categories": ["Names"]}, {"task008_names": 2, "task070_more_names": 3}),
        ({"min_instances": 3}, {"task007_sums": 4, "task070_more_names": 3}),
        ({"max_words": 3}, {"task007_sums": 4, "task008_names": 1, "task070_more_names": 3}),
        ({"max_words": 3, "min_instances": 2, "instances": 1}, {"task007_sums": 1, "task070_more_names": 1}),
    ],
)
def test_limits_of_task_files(tasks: Path, limits: dict[str, Any], kept: dict[str, int]) -> None:
    pool = read_source(source(kind="sni", path=tasks, **limits), 0)
    assert {c["values"]: c["counts"] for c in pool["task"].value_counts().to_pylist()} == kept


def test_seeded_choices(tasks: Path) -> None:
    def names(seed: int) -> set[str]:
        return set(read_source(source(kind="sni", path=tasks, max_tasks=2), seed)["task"].to_pylist())

    assert all(len(names(seed)) == 2 and names(seed) == names(seed) for seed in range(3))
    assert len({frozenset(names(seed)) for seed in range(20)}) == 3
    limited = source(kind="sni", path=tasks, tasks=["7"], instances=2)
    inputs = {tuple(read_source(limited, seed)["input"].to_pylist()) for seed in range(20)}
    assert len(inputs) > 1


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"tasks": ["task008_nam"]}, "no task 'task008_nam' .*did you mean 'task008_names'"),
        ({"tasks": ["99"]}, "no task '99'"),
        ({"categories": ["Name"]}, "no category 'Name' .*did you mean 'Names'"),
        ({"min_instances": 50}, "no instance passes .* 3 tasks 3 were excluded: 3 by min_instances: 50"),
        ({"max_words": 1}, "no instance passes .* 3 tasks 3 were excluded: 3 by max_words: 1"),
    ],
)
def test_limits_without_match_are_refused(tasks: Path, limits: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_source(source(kind="sni", path=tasks, **limits), 0)


def test_broken_task_files(tasks: Path) -> None:
    sni_task(tasks, "task009_empty", "Names", [["a"], [""]])
    with pytest.raises(UserError, match=r"task009_empty.json, data row 2, target: the target is empty"):
        read_source(source(kind="sni", path=tasks), 0)
    for content in ("{", "[]", '{"Instances": []}', '{"Instances": [{"input": "x"}]}'):
        (tasks / "task009_empty.json").write_text(content)
        with pytest.raises(UserError, match=r"task009_empty.json"):
            read_source(source(kind="sni", path=tasks), 0)


def test_shared_folder_and_table(shared_data: Path) -> None:
    folder = read_source(source(kind="sni", path=shared_data / "sni_raw"), 0)
    files = sorted((shared_data / "sni_raw").glob("*.json"))
    assert folder.num_rows == sum(len(json.loads(file.read_text())["Instances"]) for file in files)
    table = shared_data / "sni" / "sni_english.parquet"
    pool = read_source(source(kind="sni", path=table, tasks=["task000_any", "1"], instances=50), 0)
    assert pool["task"].value_counts().to_pylist() == [
        {"values": "task000", "counts": 50},
        {"values": "task001", "counts": 50},
    ]
    own = pq.read_table(table)
    inputs = {r["input"] for r in own.select(["task_id", "input"]).to_pylist() if r["task_id"] in (0, 1)}
    assert set(pool["input"].to_pylist()) <= inputs
    with pytest.raises(UserError, match=r"no task '7777' .*722 tasks are there"):
        read_source(source(kind="sni", path=table, tasks=["7777"]), 0)
    with pytest.raises(UserError, match=r"no category 'Question Answerin' .*'Question Answering'"):
        read_source(source(kind="sni", path=table, categories=["Question Answerin"]), 0)


def test_hub_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="needs datasets: pip install '.[hub]'")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    labels = datasets.ClassLabel(names=["bad", "good"])
    parts = {}
    for name, texts in (("train", ["fine", "poor"]), ("dev", ["nice"])):
        rows = {"text": texts, "label": [1, 0][: len(texts)]}
        parts[name] = datasets.Dataset.from_dict(
            rows, datasets.Features(text=datasets.Value("string"), label=labels)
        )
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    columns = {"input": "text", "target": "label"}
    pool = read_source(source(kind="hub", name=tmp_path / "saved", columns=columns), 0)
    assert pool.select(["input", "targets", "split"]).to_pylist() == [
        {"input": "fine", "targets": ["good"], "split": "train"},
        {"input": "poor", "targets": ["bad"], "split": "train"},
        {"input": "nice", "targets": ["good"], "split": "validation"},
    ]
    folder = tmp_path / "files"
    folder.mkdir()
    write(folder, ".jsonl", [{"input": "x", "target": ["y"]}]).rename(folder / "test.jsonl")
    assert read_source(source(kind="hub", name=folder), 0)["split"].to_pylist() == ["test"]
    with pytest.raises(UserError, match=r"split train: there is no column 'target'.*"):
        read_source(source(kind="hub", name=tmp_path / "saved", columns={"input": "text"}), 0)
    datasets.DatasetDict(extra=parts["dev"]).save_to_disk(tmp_path / "odd")
    with pytest.raises(UserError, match="split 'extra'"):
        read_source(source(kind="hub", name=tmp_path / "odd", columns=columns), 0)


def test_hub_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="needs datasets: pip install '.[hub]'")
    with pytest.raises(UserError, match="no such folder"):
        read_source(source(kind="hub", name=tmp_path / "absent"), 0)

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("could not be reached")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(UserError, match=r"owner/name: the data set cannot be loaded: could not be reached"):
        read_source(source(kind="hub", name="owner/name"), 0)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'fedprofit\[hub\]'"):
        read_source(source(kind="hub", name="owner/name"), 0)


def test_fingerprint_follows_settings_and_content(tmp_path: Path) -> None:
    path = write(tmp_path, ".jsonl", ROWS)
    table = source(kind="table", path=path)
    before = fingerprint(table, 0)
    assert before == fingerprint(table, 0)
    assert before != fingerprint(source(kind="table", path=path, columns=COLUMNS), 0)
    write(tmp_path, ".jsonl", ROWS[:2])
    assert before != fingerprint(table, 0)
    folder = source(kind="sni", path=tmp_path)
    before = fingerprint(folder, 0)
    sni_task(tmp_path, "task001_x", "X", [["a"]])
    assert before != fingerprint(folder, 0)
    assert fingerprint(source(kind="lexicon"), 0) != fingerprint(source(kind="lexicon", instances=3), 0)


def test_lexicon_is_dispatched_and_its_packages_are_known() -> None:
    settings = source(kind="lexicon", tasks=["country_capital"], instances=3)
    assert read_source(settings, 0).equals(lexicon.read(["country_capital"], [], 3))
    asked: set[str] = set()
    for file in Path(lexicon.__file__).parent.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        asked |= {part.split('"')[0].split(".")[0] for part in text.split('package("')[1:]}
    assert asked == set(PACKAGES)
