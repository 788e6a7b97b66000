"""Turn a user's columns into the pool's columns, checked; all sources that read tables use it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedprofit.core.errors import UserError, nearest
from fedprofit.data.pool import GROUP, POOL_SCHEMA, SPLITS, UNSEEN
from fedprofit.data.sources.base import Columns
from fedprofit.data.tables.reading import SHOWN, Finding, Reading, listed
from fedprofit.data.tables.text import LIST, TextTable

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


def wanted(columns: Columns, there: list[str], place: str) -> list[str]:
    """Return the distinct names of the columns to read. Raise UserError if `there` lacks one."""
    for setting, name in columns.model_dump(exclude_none=True).items():
        if name not in there:
            raise UserError(
                f"{place}: there is no column {name!r} (data.source.columns.{setting}); "
                f"{nearest(name, there)} Set data.source.columns.{setting} to the column that holds it."
            )
    return columns.names()


def to_pool(
    table: pa.Table,
    columns: Columns,
    place: str,
    reading: Reading | None = None,
    rows: TextTable | None = None,
) -> pa.Table:
    """Turn a table with the user's column names into a checked table of POOL_SCHEMA.

    Numbers become text without an exponent. NaN is a missing value. A target that is text becomes a list of
    one. Without a task column every row belongs to the task "task". Error messages begin with `place`, a file
    or data set. Rows with errors go into `reading` and are omitted; without `reading` they raise an error.
    Errors are: a missing or empty target, client or task, an unknown split, an input and a definition that
    are both empty, a value that is not text.

    Raises UserError for a missing column, a column that is not text, or client ids that differ only in white
    space.

    >>> rows = pa.table({"question": ["1 + 1"], "answer": [2]})
    >>> to_pool(rows, Columns(input="question", target="answer"), "sums")["targets"].to_pylist()
    [['2']]
    """
    wanted(columns, table.column_names, place)
    sifted = reading or Reading()
    if table.num_rows == 0 and not sifted.rows:
        raise UserError(f"{place}: it holds no rows. Check that the right file is named.")
    given = _Given(table, place, list(rows.findings) if rows else [])
    pool = {
        "task": given.text(columns.task, "task"),
        "category": pc.fill_null(given.text(columns.category, ""), ""),
        "definition": pc.fill_null(given.text(columns.definition, ""), ""),
        "positives": no_positives(table.num_rows),
        "input": pc.fill_null(given.text(columns.input, ""), ""),
        "targets": given.targets(columns.target),
        "split": given.split(columns.split),
        "client": given.text(columns.client, None),
    }
    schema, ownerless = POOL_SCHEMA, None
    if columns.group is not None:
        pool[GROUP.name], schema = given.group(columns.group), POOL_SCHEMA.append(GROUP)
        ownerless = pc.fill_null(pc.equal(pool[GROUP.name], UNSEEN), False).to_numpy()
    if columns.client is not None:
        given.none_missing(pool["client"], columns.client, "the client", ownerless)
    if columns.task is not None:
        given.none_missing(pool["task"], columns.task, "the task")
    made = pa.table(pool, schema=schema)
    found = given.findings + _wrong(made, given, columns)
    left = sifted.sift(made, found, place, rows.numbering if rows else None)
    if columns.client is not None:
        sifted.refusals += _twice(left["client"], place)
    if reading is None:
        sifted.settle(place)
    return left


def check(pool: pa.Table, place: str, reading: Reading) -> pa.Table:
    """Return the rows of a pool that have a target and something to read; the others go into `reading`."""
    return reading.sift(pool, _wrong(pool, _Given(pool, place, []), None), place)


def no_positives(rows: int) -> pa.Array:
    """Return the pool's `positives` of `rows` instances without positive examples."""
    field = POOL_SCHEMA.field("positives").type
    return pa.ListArray.from_arrays(
        pa.repeat(pa.scalar(0, pa.int32()), rows + 1), pa.array([], field.value_type)
    )


class _Given:
    """The columns of a user's table as text, and the errors found in their cells."""

    def __init__(self, table: pa.Table, place: str, findings: list[Finding]) -> None:
        self.table, self.place, self.findings = table, place, findings

    def text(self, name: str | None, absent: str | None) -> pa.ChunkedArray:
        """Return a column as text; without a name, `absent` in every row."""
        if name is None:
            return pa.chunked_array([pa.repeat(pa.scalar(absent, pa.string()), self.table.num_rows)])
        column = self.table[name]
        if pa.types.is_floating(column.type):
            infinite = pc.fill_null(pc.is_inf(column), False).to_numpy()
            self.find(name, "an infinite number", infinite)
            return _digits(column)
        return self.valid(self.cast(column, pa.string(), name), name)

    def cast(self, column: pa.ChunkedArray, kind: pa.DataType, name: str) -> pa.ChunkedArray:
        """Convert a column to text. Raise UserError if its type cannot be converted."""
        try:
            if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
                # Unchecked here: `valid` looks at each row.
                return pa.chunked_array([chunk.cast(kind, safe=False) for chunk in column.chunks], kind)
            return column.cast(kind)
        except pa.ArrowException:
            raise UserError(
                f"{self.place}: column {name!r} holds {column.type}, which is not text (UTF-8). Name another "
                "column in data.source.columns, or save it as text."
            ) from None

    def valid(self, text: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
        """Find bytes that are not UTF-8; return null for them."""
        try:
            text.validate(full=True)
        except pa.ArrowInvalid:
            raw = [value for chunk in text.chunks for value in chunk.cast(pa.binary()).to_pylist()]
            bad = np.array([not _is_utf8(value) for value in raw])
            self.find(name, "undecodable bytes", bad, lambda row: raw[row])
            text = pa.chunked_array([[None if no else v.decode() for no, v in zip(bad, raw, strict=True)]])
        return text

    def targets(self, name: str) -> pa.ChunkedArray:
        """Return the targets, lists of text."""
        column = self.table[name]
        kind = column.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            return self.cast(column, LIST, name)
        text = self.text(name, None)
        offsets = [pa.array(np.arange(len(chunk) + 1, dtype=np.int32)) for chunk in text.chunks]
        chunks = [pa.ListArray.from_arrays(*pair) for pair in zip(offsets, text.chunks, strict=True)]
        return pa.chunked_array(chunks, LIST)

    def split(self, name: str | None) -> pa.ChunkedArray:
        """Return the splits by the pool's names; null for rows without."""
        column = self.text(name, None)
        if name is None:
            return column
        position = pc.index_in(pc.utf8_lower(column), value_set=pa.array(list(SPLIT_NAMES)))
        unknown = pc.and_(pc.is_null(position), pc.is_valid(column)).to_numpy()
        self.find(name, "not one of train, validation and test", unknown)
        return pc.take(pa.array(list(SPLIT_NAMES.values())), position)

    def group(self, name: str) -> pa.ChunkedArray:
        """Return the groups by the pool's names."""
        column = pc.utf8_lower(self.text(name, None))
        known = pc.is_in(column, value_set=pa.array([*SPLITS, UNSEEN])).to_numpy()
        self.find(name, "not one of train, validation, test and unseen", ~known)
        return column

    def none_missing(
        self, text: pa.ChunkedArray, name: str, what: str, excepted: NDArray[np.bool_] | None = None
    ) -> None:
        """Find the rows without a text, or with blank space only, except those that may lack it."""
        missing = pc.is_null(text).to_numpy()
        self.find(name, f"{what} is missing", missing if excepted is None else missing & ~excepted)
        self.find(name, f"{what} is empty", pc.fill_null(_blank(text), False).to_numpy())

    def find(
        self, name: str, reason: str, bad: NDArray[np.bool_], value: Callable[[int], Any] | None = None
    ) -> None:
        """Record the rows of a mask, except those whose cell is already recorded."""
        bad = bad.copy()
        for known in self.findings:
            if known.column == name:
                bad[known.rows] = False
        if bad.any():
            column = self.table[name] if name in self.table.column_names else None
            shows = value or (lambda row: None if column is None else column[row].as_py())
            self.findings.append(Finding(name, reason, np.flatnonzero(bad), shows))


def _digits(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Write floating-point numbers without an exponent, in the fewest digits that read back equal."""
    encoded = column.dictionary_encode().combine_chunks()
    numbers = encoded.dictionary.to_numpy(zero_copy_only=False)
    words = [np.format_float_positional(x, trim="-") if np.isfinite(x) else None for x in numbers]
    return pa.chunked_array([pa.array(words, pa.string()).take(encoded.indices)])


def _is_utf8(value: bytes | None) -> bool:
    try:
        return value is None or value.decode() is not None
    except UnicodeDecodeError:
        return False


def _blank(text: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    return pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(text)), 0)


def _wrong(pool: pa.Table, given: _Given, columns: Columns | None) -> list[Finding]:
    """Find the rows without a target, or with neither input nor definition."""
    found = _Given(pool, given.place, list(given.findings))
    target, source = (columns.target, columns.input) if columns else ("target", "input")
    values = pool["targets"]
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy()
    empty, missing, row = np.zeros(len(lengths), bool), np.zeros(len(lengths), bool), 0
    for chunk in values.chunks:  # flattening goes chunk by chunk: offsets are 32 bits wide
        flat, parents = pc.list_flatten(chunk), row + pc.list_parent_indices(chunk).to_numpy()
        missing[parents[pc.is_null(flat).to_numpy(zero_copy_only=False)]] = True
        empty[parents[pc.fill_null(_blank(flat), False).to_numpy(zero_copy_only=False)]] = True
        row += len(chunk)
    shows = given.table[target] if target in given.table.column_names else values

    def value(row: int) -> Any:
        return shows[row].as_py()

    found.find(target, "the target is missing", missing | (lengths == 0), value)
    found.find(target, "the target is empty", empty & ~missing, value)
    nothing = pc.and_(_blank(pool["input"]), _blank(pool["definition"])).to_numpy()
    what = "input is" if columns and not columns.definition else "input and the definition are"
    found.find(source, f"the {what} empty", nothing, lambda row: pool["input"][row].as_py())
    return found.findings[len(given.findings) :]


def _twice(clients: pa.ChunkedArray, place: str) -> list[str]:
    """Name client ids that differ in surrounding white space only: one client would become two."""
    ids = pc.unique(clients).drop_null()
    trimmed = pc.utf8_trim_whitespace(ids)
    if pc.count_distinct(trimmed).as_py() == len(ids):
        return []
    counts = pc.value_counts(trimmed)
    names = counts.field("values").filter(pc.greater(counts.field("counts"), 1)).to_pylist()
    spelled = [f"{name!r} as {ids.filter(pc.equal(trimmed, name)).to_pylist()}" for name in names[:SHOWN]]
    return [
        f"{place}: clients appear under several ids that differ in white space only: "
        f"{listed(spelled, len(names))}. Spell each one way, or rename one of them."
    ]
