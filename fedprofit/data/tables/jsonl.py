"""JSON Lines: one object per line; numbers keep their spelling.

Arrow reads the file if all values of the named columns are texts or integers: its result is then the same.
Other files are read line by line, which also finds the error in each line.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from fedprofit.core.errors import UserError
from fedprofit.data.sources.base import Columns
from fedprofit.data.tables.reading import Numbering, Reading, shown
from fedprofit.data.tables.text import LIST, TextTable, cells, column_name, decode

BLOCK = 16 * 2**20  # bytes that Arrow reads at a time; files with longer lines are read line by line
LOOKED_AT = 64  # lines by which the columns' types are guessed
MINUS_ZERO = re.compile(rb":\s*-0\s*[,}]")  # Arrow reads it as 0


def read(data: bytes, columns: Columns, encoding: str | None, place: str, reading: Reading) -> TextTable:
    """Read the named columns as text; columns that no line has are omitted.

    Raises UserError for a file without an object, or a wrong encoding.
    """
    names = columns.names()
    table = _by_arrow(data, names, columns.target) if encoding in (None, "utf-8") else None
    if table is None:
        return _by_line(data, columns, encoding, place, reading)
    return TextTable(table, [], Numbering("line", lambda: _lines(data, table.num_rows)))


def _by_arrow(data: bytes, names: Sequence[str], target: str) -> pa.Table | None:
    """Let Arrow read the file; return None if its result could differ from reading line by line."""
    types = _types(data, names, target)
    if types is None:
        return None
    parse = pyarrow.json.ParseOptions(explicit_schema=pa.schema(types), unexpected_field_behavior="ignore")
    block = pyarrow.json.ReadOptions(block_size=BLOCK)
    try:
        table = pyarrow.json.read_json(pa.BufferReader(data), read_options=block, parse_options=parse)
        table = table.select(names)
        table.validate(full=True)  # checks that texts are UTF-8
    except pa.ArrowException:
        return None
    integers = [name for name, kind in types if kind == pa.int64()]
    zero = any(pc.any(pc.equal(table[name], 0), min_count=0).as_py() for name in integers)
    return None if zero and MINUS_ZERO.search(data) else table


def _types(data: bytes, names: Sequence[str], target: str) -> list[tuple[str, pa.DataType]] | None:
    """Guess the columns' types from the first lines; None if Arrow cannot be used for one of them."""
    try:
        head = data[:BLOCK].split(b"\n", LOOKED_AT)[:LOOKED_AT]
        rows = [json.loads(line) for line in head if line.strip()]
    except (ValueError, RecursionError):
        return None
    found = []
    for name in names:
        values = (row.get(name) for row in rows if isinstance(row, dict))
        value = next((value for value in values if value is not None), None)
        kinds: dict[type, pa.DataType] = {str: pa.string(), int: pa.int64()}
        kind = LIST if isinstance(value, list) and name == target else kinds.get(type(value))
        if kind is None:
            return None
        found.append((name, kind))
    return found


def _lines(data: bytes, rows: int) -> "np.ndarray[Any, np.dtype[np.int64]] | None":
    """Return the number of each row's line; None unless each row has its own line."""
    full = np.flatnonzero([bool(line.strip()) for line in data.split(b"\n")]) + 1
    return full if len(full) == rows else None


def _by_line(data: bytes, columns: Columns, encoding: str | None, place: str, reading: Reading) -> TextTable:
    text, used = decode(data, encoding, place, reading)
    if used not in ("utf-8", "utf-8-sig"):
        reading.remarks.append(("read as", used))
    if text.lstrip()[:1] == "[":
        raise UserError(
            f"{place}: line 1: found '[': this is one JSON array. Write one object a line (JSON Lines), for "
            'example by `jq -c ".[]"` or pandas\' to_json(orient="records", lines=True).'
        )
    names = columns.names()
    values: dict[str, list[Any]] = {name: [] for name in names}
    numbers, keys = [], set[str]()
    decoder = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=_constant)
    for number, line in enumerate(text.split("\n"), 1):
        if not line or line.isspace():
            continue
        try:
            row = decoder.decode(line)
        except json.JSONDecodeError as error:
            reading.lost(place, "line", number, _fault(line, error), "")
            continue
        except RecursionError:
            reading.lost(place, "line", number, "not JSON: too deeply nested", "")
            continue
        if not isinstance(row, dict):
            reading.lost(place, "line", number, "not a JSON object", line[:200].strip())
            continue
        keys.update(row)
        numbers.append(number)
        for name in names:
            values[name].append(row.get(name))
    if not numbers:
        _nothing(text, place, reading)
    made = {name: cells(values[name], name, lists=name == columns.target) for name in names if name in keys}
    unused = sorted(keys - set(names))[:LOOKED_AT]
    others = {column_name(key): pa.nulls(len(numbers)) for key in unused}
    lines = np.array(numbers, np.int64)
    table = pa.table({name: array for name, (array, _) in made.items()} | others)
    return TextTable(
        table, [one for _, found in made.values() for one in found], Numbering("line", lambda: lines)
    )


def _constant(name: str) -> float | None:
    return None if name == "NaN" else float(name)  # the only numbers that do not keep their spelling


def _fault(line: str, error: json.JSONDecodeError) -> str:
    """Describe the error in a line: its column and the text found there."""
    before, rest = line[: error.pos].rstrip(), line[error.pos :].strip()
    problem = error.msg[:1].lower() + error.msg[1:]
    if rest[:1] == "," or (before[-1:] == "," and rest[:1] in ("}", "]", "")):
        problem = "a stray comma"
    remaining = before[-1:] + rest if before[-1:] == "," else rest
    found = shown(remaining[:20]) if rest else "the end of the line"
    return f"not JSON: {problem} at column {error.colno}, found {found}"


def _nothing(text: str, place: str, reading: Reading) -> None:
    """Raise UserError for a file without a single object."""
    if not text.strip():
        raise UserError(f"{place}: the file is empty. Write it again, or correct data.source.path.")
    reading.skip = False  # there is nothing else to read
    reading.settle(place)
