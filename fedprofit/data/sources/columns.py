"""A user's columns become the pool's columns, checked: shared by every source that reads tables."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedprofit.data.pool import POOL_SCHEMA
from fedprofit.data.settings import Columns
from fedprofit.errors import UserError, nearest

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
    """Return the distinct names of the columns to read; UserError where `there` lacks one."""
    for setting, name in columns.model_dump(exclude_none=True).items():
        if name not in there:
            raise UserError(
                f"{place}: there is no column {name!r} (data.source.columns.{setting}); "
                f"{nearest(name, there)} Set data.source.columns.{setting} to the column that holds it."
            )
    return sorted(set(columns.model_dump(exclude_none=True).values()))


def to_pool(table: pa.Table, columns: Columns, place: str) -> pa.Table:
    """Turn a table with the user's column names into a checked table of POOL_SCHEMA.

    Numbers become text; a target that is text becomes a list of one; without a task column every row
    belongs to the task "task". `place` (a file or data set) begins every error message.

    Raises UserError: a missing column, a column that is not text, an unknown split, an empty task,
    client or target, a client under two ids that differ in white space alone, an input that is empty
    together with its definition.

    >>> rows = pa.table({"question": ["1 + 1"], "answer": [2]})
    >>> to_pool(rows, Columns(input="question", target="answer"), "sums")["targets"].to_pylist()
    [['2']]
    """
    wanted(columns, table.column_names, place)
    if table.num_rows == 0:
        raise UserError(f"{place}: it holds no rows. Check that the right file is named.")

    def text(name: str | None, absent: str | None) -> pa.ChunkedArray:
        if name is None:
            return pa.chunked_array([pa.repeat(pa.scalar(absent, pa.string()), table.num_rows)])
        return _cast(table[name], pa.string(), name, place)

    pool = {
        "task": text(columns.task, "task"),
        "category": pc.fill_null(text(columns.category, ""), ""),
        "definition": pc.fill_null(text(columns.definition, ""), ""),
        "positives": no_positives(table.num_rows),
        "input": pc.fill_null(text(columns.input, ""), ""),
        "targets": _targets(table[columns.target], columns.target, place),
        "split": _split(text(columns.split, None), columns.split, place),
        "client": text(columns.client, None),
    }
    if columns.client is not None:
        _none_empty(pool["client"], f"the client (column {columns.client!r})", place)
        _none_twice(pool["client"], place)
    if columns.task is not None:
        _none_empty(pool["task"], f"the task (column {columns.task!r})", place)
    return check(pa.table(pool, schema=POOL_SCHEMA), place)


def no_positives(rows: int) -> pa.Array:
    """Return the pool's `positives` of `rows` instances without positive examples."""
    field = POOL_SCHEMA.field("positives").type
    return pa.ListArray.from_arrays(
        pa.repeat(pa.scalar(0, pa.int32()), rows + 1), pa.array([], field.value_type)
    )


def check(pool: pa.Table, place: str) -> pa.Table:
    """Return the pool if every row has a target and something to read, else raise UserError."""
    targets = pc.list_value_length(pool["targets"])
    _no_row(pc.fill_null(pc.equal(targets, 0), True), "there is no target", pool, place)
    row = 0
    for chunk in pool["targets"].chunks:  # flattening goes chunk by chunk: offsets are 32 bits wide
        bad = pc.fill_null(_blank(pc.list_flatten(chunk)), True)
        if pc.any(bad, min_count=0).as_py():
            parent = pc.list_parent_indices(chunk).filter(bad)[0].as_py()
            raise _row_error(row + parent, "a target is empty", pool, place)
        row += len(chunk)
    nothing = pc.and_(_blank(pool["input"]), _blank(pool["definition"]))
    _no_row(nothing, "both the input and the definition are empty", pool, place)
    return pool


def _blank(text: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    return pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(text)), 0)


def _no_row(bad: pa.ChunkedArray, problem: str, pool: pa.Table, place: str) -> None:
    row = pc.index(bad, True).as_py()
    if row >= 0:
        raise _row_error(row, problem, pool, place)


def _row_error(row: int, problem: str, pool: pa.Table, place: str) -> UserError:
    client, task = pool["client"][row].as_py(), pool["task"][row].as_py()
    owner = f"task {task!r}" if client is None else f"client {client!r}, task {task!r}"
    return UserError(f"{place}: in data row {row + 1} ({owner}) {problem}. Complete the row or leave it out.")


def _none_empty(column: pa.ChunkedArray, what: str, place: str) -> None:
    row = pc.index(pc.fill_null(_blank(column), True), True).as_py()
    if row >= 0:
        value = column[row].as_py()
        raise UserError(
            f"{place}: in data row {row + 1} {what} is {'null' if value is None else repr(value)}. "
            "Give every row one, or set that column to null in data.source.columns."
        )


def _none_twice(clients: pa.ChunkedArray, place: str) -> None:
    """Refuse client ids that differ in surrounding white space alone: one client would become two."""
    ids = pc.unique(clients)
    trimmed = pc.utf8_trim_whitespace(ids)
    if pc.count_distinct(trimmed).as_py() < len(ids):
        counts = pc.value_counts(trimmed)
        name = counts.field("values")[pc.index(pc.greater(counts.field("counts"), 1), True).as_py()]
        spelled = ids.filter(pc.equal(trimmed, name)).to_pylist()
        raise UserError(
            f"{place}: the client {name.as_py()!r} appears under several ids, {spelled}, that differ in "
            "white space alone. Spell it one way, or rename one of them."
        )


def _cast(column: pa.ChunkedArray, kind: pa.DataType, name: str, place: str) -> pa.ChunkedArray:
    try:
        return column.cast(kind)
    except pa.ArrowException:
        raise UserError(
            f"{place}: column {name!r} holds {column.type}, which is not text (UTF-8). Name another column "
            "in data.source.columns, or save it as text."
        ) from None


def _targets(column: pa.ChunkedArray, name: str, place: str) -> pa.ChunkedArray:
    kind = pa.list_(pa.string())
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return _cast(column, kind, name, place)
    text = _cast(column, pa.string(), name, place)
    offsets = [pa.array(np.arange(len(chunk) + 1, dtype=np.int32)) for chunk in text.chunks]
    chunks = [pa.ListArray.from_arrays(*pair) for pair in zip(offsets, text.chunks, strict=True)]
    return pa.chunked_array(chunks, kind)


def _split(column: pa.ChunkedArray, name: str | None, place: str) -> pa.ChunkedArray:
    if name is None:
        return column
    spelled = pa.array(list(SPLIT_NAMES))
    position = pc.index_in(pc.utf8_lower(column), value_set=spelled)
    row = pc.index(pc.and_(pc.is_null(position), pc.is_valid(column)), True).as_py()
    if row >= 0:
        raise UserError(
            f"{place}: in data row {row + 1} the split (column {name!r}) is {column[row].as_py()!r}; "
            f"{nearest(column[row].as_py(), SPLIT_NAMES)} Rename it, or set data.source.columns.split to "
            "null to have splits made by seed."
        )
    return pc.take(pa.array(list(SPLIT_NAMES.values())), position)
