"""Users' tables with faults: cells, lines, encodings, separators, bytes.

A table that loads must contain the unchanged rows. A changed cell must have its text as written.
"""

import csv
import io
import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import polars as pl
from faults import LOADED, SILENT, Outcome, attempt, damaged

from fedprofit.data.sources import read_source
from fedprofit.data.sources.table import TableSource
from fedprofit.data.tables.reading import Reading

Row = dict[str, object]
COLUMNS = ("client", "input", "target")
WORDS = ["refund", "card", "Zürich", "雪の日", "данные", "a, b", 'say "no"', "x;y", "tab\there", "12", "é"]
CELLS = [
    None, "", "  ", "nan", "NaN", "null", 7, -0.0, 1.50, 2**53 + 1, 10**30, True, [], ["a", "b"], {"a": 1},
    "=1+1", "</s>", "a\x00b", "\u200b", "line\nbreak", "x" * 5000, "\ufeffmark", "\u202eturned",
]  # fmt: skip


def rows_of(draw: random.Random) -> list[Row]:
    """Draw a table of 30 rows for three clients."""
    words = [" ".join(draw.choices(WORDS, k=3)) for _ in range(60)]
    return [
        {"client": f"c{n % 3}", "input": f"{n} {words[2 * n]}", "target": f"{n} {words[2 * n + 1]}"}
        for n in range(30)
    ]


def as_jsonl(rows: list[Row], draw: random.Random) -> bytes:
    """Write one JSON object per line."""
    return "\n".join(json.dumps(row, ensure_ascii=draw.random() < 0.5) for row in rows).encode("utf-8")


def as_csv(rows: list[Row], draw: random.Random) -> bytes:
    """Write with a random separator and encoding."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, COLUMNS, delimiter=draw.choice(",;\t|"), lineterminator=draw.choice(["\n", "\r\n"])
    )
    writer.writeheader()
    writer.writerows(rows)
    encoding = draw.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "cp1252"])
    return text.getvalue().encode(encoding, "replace")


def as_parquet(rows: list[Row], draw: random.Random) -> bytes:
    """Write text columns."""
    file = io.BytesIO()
    texts = [{key: None if row[key] is None else str(row[key]) for key in COLUMNS} for row in rows]
    pl.DataFrame(texts, schema=dict.fromkeys(COLUMNS, pl.String)).write_parquet(file)
    return file.getvalue()


WRITERS: dict[str, Callable[[list[Row], random.Random], bytes]] = {
    ".jsonl": as_jsonl,
    ".csv": as_csv,
    ".parquet": as_parquet,
}


def mutated_tables(folder: Path, seed: int, count: int) -> Iterator[Outcome]:
    """Write tables with faults and read them; yield the outcomes."""
    draw = random.Random(seed)
    for number in range(count):
        suffix, kind = draw.choice(list(WRITERS)), draw.choice(["cells", "bytes", "lines"])
        rows = rows_of(draw)
        untouched = {tuple(row.values()) for row in rows}
        changed: set[int] = set()
        if kind == "cells":
            for _ in range(draw.randint(1, 4)):
                at = draw.randrange(len(rows))
                rows[at][draw.choice(COLUMNS)] = draw.choice(CELLS)
                changed.add(at)
        data = WRITERS[suffix](rows, draw)
        lossy = b"?" in data  # a character that the encoding lacks
        if kind == "bytes":
            data = damaged(draw, data)[1]
        elif kind == "lines" and suffix != ".parquet":
            data = _lines(draw, data)
        path = folder / f"table-{number % 8}{suffix}"
        path.write_bytes(data)
        known = untouched if kind == "cells" and not lossy else None
        read = partial(_read, path, known, len(changed), draw.random() < 0.5)
        yield attempt(f"{suffix[1:]} {kind}", repr(data[:200]), read, path.name, seconds=20)


def _lines(draw: random.Random, data: bytes) -> bytes:
    """Repeat, drop, join or cut lines, or insert a stray character."""
    lines = data.split(b"\n")
    at = draw.randrange(len(lines))
    act = draw.choice(["repeat", "drop", "join", "cut", "mark"])
    if act == "repeat":
        lines.insert(at, lines[at])
    elif act == "drop":
        del lines[at]
    elif act == "join":
        lines[at : at + 2] = [b"".join(lines[at : at + 2])]
    elif act == "cut":
        lines[at] = lines[at][: len(lines[at]) // 2]
    else:
        middle = draw.randrange(len(lines[at]) + 1)
        lines[at] = (
            lines[at][:middle] + draw.choice([b",", b'"', b"{", b"\x00", b"\xff"]) + lines[at][middle:]
        )
    return b"\n".join(lines)


def _read(path: Path, known: set[tuple[object, ...]] | None, changed: int, skip: bool) -> str:
    """Read a table; of the `known` rows, at most `changed` ones may be missing."""
    columns = {"client": "client"}
    source = TableSource.model_validate_json(
        json.dumps({"kind": "table", "path": str(path), "columns": columns})
    )
    pool = read_source(source, 0, Reading(skip=skip)).to_pylist()
    found = {(row["client"], row["input"], row["targets"][0]) for row in pool}
    if known is not None and len(known - found) > changed:
        return SILENT
    return LOADED
