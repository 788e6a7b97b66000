"""Handling of bad rows and files by sources."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedprofit.config.file import from_mapping
from fedprofit.core.errors import UserError
from fedprofit.data.sources import read_source
from fedprofit.data.sources.base import Columns
from fedprofit.data.sources.table import TableSource
from fedprofit.data.tables import delimited, jsonl
from fedprofit.data.tables.reading import Reading

OWN = Columns(client="client")
GOOD = {"client": "ann", "input": "x", "target": "y"}


def lines(*rows: Any) -> bytes:
    """Return JSON Lines; bytes are unchanged."""
    return b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows) + b"\n"


def as_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def load(folder: Path, content: bytes, name: str = "t.jsonl", skip: bool = False, **settings: Any) -> Any:
    """Return the pool and the findings."""
    (folder / name).write_bytes(content)
    reading = Reading(skip=skip)
    columns = settings.pop("columns", OWN)
    table = TableSource(kind="table", path=str(folder / name), columns=columns, **settings)
    return read_source(table, 0, reading), reading


def refused(folder: Path, content: bytes, name: str = "t.jsonl", **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(folder, content, name, **settings)
    return str(caught.value)


def test_all_bad_rows_are_named_at_once(tmp_path):
    bad = [
        GOOD | {"target": None},
        b'{"client": "ann", "input": "x", "target": "y",}',
        GOOD | {"target": " "},
        {"input": "x", "target": "y"},
        GOOD | {"target": {"a": 1}},
        [1],
    ]
    message = refused(tmp_path, lines(GOOD, *bad, b"", GOOD | {"input": ""}))
    for words in (
        "t.jsonl: 7 of 8 rows cannot be used\n",
        "line 2, target: the target is missing (null), client 'ann'\n",
        "line 3: not JSON: a stray comma at column 47, found ',}'\n",
        "line 4, target: the target is empty (' '), client 'ann'\n",
        "line 5, client: the client is missing (null)\n",
        "line 6, target: an object where text is expected ({'a': '1'}), client 'ann'\n",
        "line 7: not a JSON object ('[1]')\n",
        "line 9, input: the input is empty (''), client 'ann'\n",
        "1 × not JSON",
        "data.bad_rows: skip",
    ):
        assert words in message, words


def test_message_names_twenty_rows_and_counts_others(tmp_path):
    rows = [GOOD] + [GOOD | {"target": "" if n % 3 else None, "client": f"c{n}"} for n in range(900)]
    message = refused(tmp_path, lines(*rows))
    assert len(re.findall(r"^  line \d+", message, re.MULTILINE)) == 20
    assert "… 880 more" in message
    assert "600 × the target is empty, 300 × the target is missing" in message
    assert len(message) < 3000


def test_skipped_rows_are_counted_by_reason_and_client(tmp_path):
    rows = [
        GOOD,
        GOOD | {"target": ""},
        GOOD | {"target": "", "client": "bob"},
        b"{",
        GOOD | {"target": None},
    ]
    pool, reading = load(tmp_path, lines(*rows), skip=True)
    assert pool["client"].to_pylist() == ["ann"]
    [(what, text)] = reading.remarks
    assert what == "rows left out"
    assert text == (
        "4 of 5 (data.bad_rows: skip): 2 × the target is empty, 1 × not JSON, 1 × the target is missing; "
        "by client: 'ann' 2, unknown 1, 'bob' 1"
    )
    with pytest.raises(UserError, match="2 of 2 rows cannot be used"):
        load(tmp_path, lines(*rows[1:3]), skip=True)


def test_json_numbers_keep_their_spelling(tmp_path):
    written = [
        "12.50",
        "1e3",
        "20000000000",
        "-0",
        "9007199254740993",
        "0.1",
        "123456789012345678901234567890",
    ]
    rows = [f'{{"client": {n}, "input": "x", "target": {n}}}'.encode() for n in written]
    for first in ([], [GOOD]):  # numbers only, and among texts
        pool, _ = load(tmp_path, lines(*first, *rows))
        assert pool["client"].to_pylist()[len(first) :] == written
        assert pool["targets"].to_pylist()[len(first) :] == [[n] for n in written]
    ids = [2**53, 2**53 + 1]
    pool, _ = load(tmp_path, lines(*(GOOD | {"client": one} for one in ids)))
    assert pool["client"].to_pylist() == ["9007199254740992", "9007199254740993"]


def test_floats_have_no_exponent_and_nan_is_missing(tmp_path):
    numbers = [0.0, 2e10, 0.1, 1e-7, None, float("nan"), 1e22, float("inf")]
    table = pa.table({"client": ["a"] * 8, "input": ["x"] * 8, "target": numbers})
    pq.write_table(table, tmp_path / "t.parquet")
    reading = Reading(skip=True)
    pool = read_source(TableSource(kind="table", path=str(tmp_path / "t.parquet"), columns=OWN), 0, reading)
    found = [one[0] for one in pool["targets"].to_pylist()]
    assert found == ["0", "20000000000", "0.1", "0.0000001", "1" + "0" * 22]
    assert reading.reasons == {"the target is missing": 2, "an infinite number": 1}
    message = refused(tmp_path, (tmp_path / "t.parquet").read_bytes(), "t.parquet")
    for words in ("data row 5, target: the target is missing (null)", "data row 6", "(NaN)", "data row 8"):
        assert words in message


@pytest.mark.parametrize("name", ["NaN", "null"])
def test_absent_json_value_is_missing(tmp_path, name):
    row = f'{{"client": "a", "input": "x", "target": {name}}}'.encode()
    assert "line 2, target: the target is missing" in refused(tmp_path, lines(GOOD, row))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, "true or false where text is expected (True)"),
        ({"a": 1}, "an object where text"),
        ([["x"]], "in the list: a list where text"),
        ([], "the target is missing ([])"),
        (["x", " "], "the target is empty"),
        (["x", None], "the target is missing"),
        ("\ud800", "half a character"),
    ],
)
def test_value_other_than_text_is_refused_by_row(tmp_path, value, words):
    message = refused(tmp_path, lines(GOOD, GOOD | {"target": value}, GOOD))
    assert "line 2, target: " in message
    assert words in message


def test_targets_are_texts_numbers_or_lists(tmp_path):
    targets = ["a", 7, ["b", 8], 1.50]
    pool, _ = load(tmp_path, lines(*(GOOD | {"target": target} for target in targets)))
    assert pool["targets"].to_pylist() == [["a"], ["7"], ["b", "8"], ["1.5"]]
    pool, _ = load(tmp_path, lines(*(GOOD | {"target": target} for target in (True, False))))
    assert pool["targets"].to_pylist() == [["true"], ["false"]]


TABLE = 'client,input,target\nann,"é, ""x""\ny",007\nbob,<x>,NA\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_encoding_and_separator_are_detected(tmp_path, encoding, separator):
    text = TABLE.replace(",", separator)
    pool, reading = load(tmp_path, text.encode(encoding), "t.csv")
    assert pool["client"].to_pylist() == ["ann", "bob"]
    assert pool["input"].to_pylist() == [f'é{separator} "x"\ny', "<x>"]
    assert pool["targets"].to_pylist() == [["007"], ["NA"]]
    expected = separator != "," or encoding in ("utf-16", "utf-32")
    assert bool(reading.remarks) == expected


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_another_encoding_is_named_with_its_setting(tmp_path, name):
    text = (
        TABLE if name == "t.csv" else lines(GOOD).decode() + '{"client": "b", "input": "é", "target": "x"}\n'
    )
    message = refused(tmp_path, text.encode("cp1252"), name)
    assert "line 2, input: undecodable bytes (b'" in message
    assert "\\xe9" in message
    assert "data.source.encoding: cp1252" in message
    pool, reading = load(tmp_path, text.encode("cp1252"), name, encoding="cp1252")
    assert any("é" in one for one in pool["input"].to_pylist())
    assert reading.remarks[0][1].startswith("cp1252")


def test_damaged_utf8_suggests_no_other_encoding(tmp_path):
    text = "client,input,target\nann,é,x\nbob,?,x\n".encode().replace(b"?", b"\xff")
    message = refused(tmp_path, text, "t.csv")
    assert "line 3, input: undecodable bytes (b'\\xff')" in message
    assert "cp1252" not in message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "t.csv",
            b"client,input,target\na,x,y\nb,x\nc,x,y,z\n",
            ["line 3: not 3 fields: 2", "line 4: not 3 fields: 4"],
        ),
        ("t.csv", b'client,input,target\na,x,y\nb,"x,y\nc,x,y\n', ["line 3: a quote opens", "never closed"]),
        ("t.csv", b"client,input,target\na,x,y\nb,x\0,y\n", ["line 3, input: a NUL byte ('x\\x00')"]),
        ("t.csv", b"client,input,input,target\na,x,x,y\n", ["names the column 'input' 2 times"]),
        ("t.csv", TABLE.encode("utf-16-le"), ["line 1", "data.source.encoding: utf-16-le"]),
        ("t.csv", b"\xff\xfe" + TABLE.encode("utf-16-le")[:-1], ["line 4", "utf-16"]),
        ("t.jsonl", b'[\n{"input": "x"}\n]', ["line 1: found '['", "one object a line"]),
        ("t.jsonl", b"\xef\xbb\xbf", ["the file is empty"]),
        ("t.jsonl", b"[" * 100_000, ["one JSON array"]),
        ("t.jsonl", lines(GOOD) + b'{"a":' * 100_000, ["line 2: not JSON"]),
    ],
)
def test_broken_file_is_named_with_its_line(tmp_path, name, content, words):
    message = refused(tmp_path, content, name)
    assert all(one in message for one in words), message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"encoding": "klingon"}, "data.source.encoding: 'klingon' is not an encoding"),
        ({"encoding": "hex"}, "data.source.encoding: 'hex' is not an encoding"),
    ],
)
def test_unknown_encoding_is_named(tmp_path, settings, words):
    assert words in refused(tmp_path, TABLE.encode(), "t.csv", **settings)


def test_separator_can_be_set(tmp_path):
    pool, _ = load(tmp_path, b"client:input:target\na:b,c;d:e\n", "t.csv", separator=":")
    assert pool["input"].to_pylist() == ["b,c;d"]


def test_reading_by_arrow_and_line_by_line_agree(tmp_path, monkeypatch):
    texts = [
        "plain",
        'q"uo"te',
        "new\nline",
        "é\u2028漢",
        "2020-01-31",
        "007",
        " x ",
        "a,b;c\td|e",
        "\\",
        "NA",
    ]
    rows = [{"client": n, "input": a, "target": b} for n, a in enumerate(texts) for b in texts]
    table = as_csv(rows).encode()
    for name, content, module in (("t.jsonl", lines(*rows), jsonl), ("t.csv", table, delimited)):
        fast, _ = load(tmp_path, content, name)
        with monkeypatch.context() as patch:
            patch.setattr(module, "_by_arrow", lambda *_: None)
            slow, _ = load(tmp_path, content, name)
        assert fast.equals(slow)
        assert fast["input"].to_pylist() == [row["input"] for row in rows]


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv"])
def test_both_readers_count_lines_equally(tmp_path, monkeypatch, name):
    rows = [GOOD, GOOD | {"input": "two\nlines"}, GOOD | {"target": ""}]
    content = lines(rows[0], b"", *rows[1:])
    if name == "t.csv":
        content = as_csv(rows).replace("ann,x,y\n", "ann,x,y\n\n").encode()
    message = refused(tmp_path, content, name)
    assert ("line 4, target" if name == "t.jsonl" else "line 6, target") in message
    monkeypatch.setattr(jsonl if name == "t.jsonl" else delimited, "_by_arrow", lambda *_: None)
    assert refused(tmp_path, content, name) == message


@pytest.mark.parametrize("value", [pl.DataFrame({"a": [1]}), [1], 7, b"x", "", "a\0b"])
def test_value_other_than_path_is_refused(value):
    run = {"data": {"source": {"kind": "table", "path": value}}, "training": {"algorithms": []}, "name": "t"}
    with pytest.raises(UserError, match=r"data\.source\.path") as caught:
        from_mapping(run)
    assert re.search("data in memory|should be the path", str(caught.value))
    assert len(str(caught.value)) < 500
    with pytest.raises(ValueError, match="should be the path of a file"):
        TableSource(kind="table", path=value)


def test_path_object_is_accepted(tmp_path):
    load(tmp_path, lines(GOOD))
    assert TableSource(kind="table", path=tmp_path / "t.jsonl").path == str(tmp_path / "t.jsonl")
