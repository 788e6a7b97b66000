"""CSV and other delimited text; the first row names the columns.

Every column is read as text: "007" and "NA" are not converted. Arrow reads UTF-8 files whose rows all have
the same number of fields. Other files are read row by row, which also finds the error in each row.
"""

import csv
import io
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from fedprofit.core.errors import UserError
from fedprofit.data.sources.base import Columns
from fedprofit.data.tables.reading import Finding, Numbering, Reading
from fedprofit.data.tables.text import TextTable, cells, column_name, decode, encoding_of

SEPARATORS = ",;\t|"
BLOCK = 16 * 2**20  # bytes that Arrow reads at a time
HEAD = 2**20  # bytes in which the first row ends


def read(
    data: bytes, columns: Columns, encoding: str | None, separator: str | None, place: str, reading: Reading
) -> TextTable:
    """Read the named columns as text; columns missing from the first row are omitted.

    The default `separator` is that of comma, semicolon, tab and bar which gives the first row most of the
    named columns, then most columns.

    Raises UserError for an empty file, a quote that is never closed, or a wrong encoding.
    """
    if not data.strip():
        raise UserError(f"{place}: the file is empty. Write it again, or correct data.source.path.")
    csv.field_size_limit(sys.maxsize)
    names, plain = (
        columns.names(),
        encoding in (None, "utf-8") and encoding_of(data) in ("utf-8", "utf-8-sig"),
    )
    text, used = (
        (data[:HEAD].decode("utf-8-sig", "replace"), "utf-8")
        if plain
        else decode(data, encoding, place, reading)
    )
    separator = separator or _separator(text, names)
    header = _header(text, separator, place, names)
    if separator != "," or used not in ("utf-8", "utf-8-sig"):
        reading.remarks.append(("read as", f"{used}, separated by {separator!r}"))
    table = _by_arrow(data, [name for name in names if name in header], separator) if plain else None
    if table is not None:
        numbering = Numbering("line", lambda: _lines(data, separator, table.num_rows))
        return TextTable(_with_names(table, header), [], numbering)
    text = decode(data, encoding, place, reading)[0] if plain else text
    return _by_row(text, header, names, separator, place, reading)


def _separator(text: str, names: list[str]) -> str:
    def fit(separator: str) -> tuple[int, int]:
        fields = next(_records(text, separator), (0, []))[1]
        return len({*names} & {*fields}), len(fields)

    return max(SEPARATORS, key=fit)  # the first of equals: the comma


def _header(text: str, separator: str, place: str, names: list[str]) -> list[str]:
    header = next(_records(text, separator), (0, []))[1]
    for name in names:
        if header.count(name) > 1:
            raise UserError(
                f"{place}: line 1 names the column {name!r} {header.count(name)} times. Rename all but one."
            )
    return header


def _records(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each record that is not empty, and the number of its first line."""
    records, line = csv.reader(io.StringIO(text, newline=""), delimiter=separator), 1
    for fields in records:
        if fields:
            yield line, fields
        line = records.line_num + 1


def _by_arrow(data: bytes, names: list[str], separator: str) -> pa.Table | None:
    """Let Arrow read the file; return None if it cannot, or if it would miss errors."""
    # Given no columns, Arrow reads all. An unclosed quote extends to the end of the file.
    if not names or data.count(b'"') % 2 or b"\0" in data:
        return None
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True, delimiter=separator)
    convert = pyarrow.csv.ConvertOptions(
        include_columns=names, column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
    )
    block = pyarrow.csv.ReadOptions(block_size=BLOCK)
    try:
        return pyarrow.csv.read_csv(
            pa.BufferReader(data), read_options=block, parse_options=parse, convert_options=convert
        )
    except pa.ArrowException:
        return None


def _with_names(table: pa.Table, header: list[str]) -> pa.Table:
    """Add the names of the unread columns, for messages that list all columns."""
    for name in dict.fromkeys(map(column_name, header)):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows))
    return table


def _lines(data: bytes, separator: str, rows: int) -> "np.ndarray[Any, np.dtype[np.int64]] | None":
    """Return the number of each row's first line; None if the counts differ."""
    found = [line for line, _ in _records(data.decode("utf-8-sig", "replace"), separator)][1:]
    return np.array(found, np.int64) if len(found) == rows else None


def _by_row(
    text: str, header: list[str], names: list[str], separator: str, place: str, reading: Reading
) -> TextTable:
    wanted = [(name, header.index(name)) for name in names if name in header]
    values: dict[str, list[str]] = {name: [] for name, _ in wanted}
    numbers, line, fields = [], 1, header
    records = _records(text, separator)
    next(records, None)
    for line, fields in records:
        if len(fields) != len(header):
            number = f"{len(fields)} field{'s' * (len(fields) > 1)}"
            reading.lost(place, "line", line, f"not {len(header)} fields: {number}", separator.join(fields))
            continue
        numbers.append(line)
        for name, position in wanted:
            values[name].append(fields[position])
    _check_quotes(text, line, separator, place)
    made = {name: cells(column, name, lists=False) for name, column in values.items()}
    findings = [one for _, found in made.values() for one in found]
    if "\0" in text:
        findings += [found for name, column in values.items() for found in _zeros(name, column)]
    table = pa.table({name: array for name, (array, _) in made.items()})
    if not made:
        table = pa.table({"": pa.nulls(len(numbers))})
    lines = np.array(numbers, np.int64)
    return TextTable(_with_names(table, header), findings, Numbering("line", lambda: lines))


def _zeros(name: str, values: list[str]) -> list[Finding]:
    """Find the cells with a zero byte: texts have none, and many programs stop there."""
    rows = np.array([row for row, value in enumerate(values) if "\0" in value], np.int64)
    return [Finding(name, "a NUL byte", rows, lambda row: values[row])] if len(rows) else []


def _check_quotes(text: str, line: int, separator: str, place: str) -> None:
    """Raise UserError if the last record, which begins in a line, has a quote that is not closed."""
    last = list(io.StringIO(text, newline=""))[line - 1 :]
    try:
        list(csv.reader(last, delimiter=separator, strict=True))
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise UserError(
                f"{place}: line {line}: a quote opens a field there and is never closed, so that the rest of "
                "the file would be one field. Close it, or double the quotes that belong to the text."
            ) from None
