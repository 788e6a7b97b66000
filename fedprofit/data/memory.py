"""Data from memory: rows of Python, polars, pandas, pyarrow or `datasets`, or a custom object.

    from fedprofit.data.memory import dataset

    rows = [{"client": "ann", "input": "2 + 2", "target": "4"}, ...]
    data = DataConfig(source=dataset(rows), clients=Groups(train=8, validation=2, test=4))

The rows are written to a Parquet file in the cache, named by their hash. Other processes and resumed runs
read this file. Configurations contain the hash, not the rows.
"""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet

from fedprofit.core.errors import UserError, cut, first_line
from fedprofit.core.files import write_with
from fedprofit.data.sources.base import Columns
from fedprofit.data.sources.memory import MemorySource, hash_of
from fedprofit.data.tables.columns import to_pool
from fedprofit.data.tables.reading import shown
from fedprofit.data.tables.rows import ACCEPTED, Asked, ClientData, named_columns, table_of_rows

if TYPE_CHECKING:
    from fedprofit.data.tables.reading import Reading

__all__ = ["ClientData", "dataset", "read_rows"]


def dataset(data: Any, columns: Asked = None) -> MemorySource:
    """Store rows in the cache and return the data source that reads them.

    Args:
        data: rows as a list of dicts, a mapping of clients to rows (or to splits and their rows), a mapping
            of columns to values, a polars, pandas or pyarrow table, a `datasets.Dataset` or `DatasetDict`, or
            an object with the methods of `ClientData`.
        columns: columns by role, as `{"input": "question"}`. Other roles are found by their usual names:
            input, target, client, definition, task, category, split, group.

    Raises:
        UserError: other data, no rows, a row that lacks a column of others, a value that is not text or a
            number, a sequence whose length is not the number of its rows.

    Example:
        >>> source = dataset([{"client": "ann", "input": "2 + 2", "target": 4}])
        >>> source.columns.client, source.has_clients
        ('client', True)
    """
    table, named = table_of(data, columns)
    source = MemorySource(rows=hash_of(table), columns=named)
    if not source.path.exists():
        write_with(source.path, lambda path: pyarrow.parquet.write_table(table, path))
    return source


def read_rows(
    data: Any,
    place: str,
    reading: "Reading | None" = None,
    columns: Asked = None,
) -> pa.Table:
    """Convert data from memory to a table of POOL_SCHEMA, the result of a data source's `read`.

    Args:
        data: see `dataset`; also a generator of dicts.
        place: name of the data in messages.
        reading: collects unusable rows; without it they raise an error.
        columns: see `dataset`.
    """
    table, named = table_of(data, columns, place)
    return to_pool(table, named, place, reading)


def table_of(data: Any, columns: Asked = None, place: str = "data.source") -> tuple[pa.Table, Columns]:
    """Convert any accepted data to a table; return it and its columns' roles. See `dataset`."""
    if isinstance(data, str | bytes) or data is None:
        raise UserError(f"{place}: found {shown(data)}. Give {ACCEPTED}.")
    table, said = _from_library(data, columns, place)
    if table is None and _is_columns(data, columns):
        lengths = {name: len(values) for name, values in data.items()}
        if len(set(lengths.values())) > 1:
            found = cut(str(lengths))
            raise UserError(f"{place}: the columns differ in length ({found}). Give equal lengths.")
        data = [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]
    if table is not None:
        named = named_columns(columns, table.column_names, said, place)
        return table.select(named.names()), named
    return table_of_rows(data, columns, place)


def _from_library(data: Any, columns: Asked, place: str) -> tuple[pa.Table | None, list[str]]:
    """Convert a table of another library, if the data is one; add the columns that its structure gives."""
    import polars as pl

    if isinstance(data, pl.LazyFrame):
        data = data.collect()
    if isinstance(data, pl.DataFrame):
        return data.to_arrow(compat_level=pl.CompatLevel.oldest()), []
    if isinstance(data, pa.Table):
        return data, []
    pandas, datasets = sys.modules.get("pandas"), sys.modules.get("datasets")
    if pandas is not None and isinstance(data, pandas.DataFrame):
        try:
            return pa.Table.from_pandas(data, preserve_index=False), []
        except (pa.ArrowException, TypeError) as error:
            raise UserError(
                f"{place}: the table's values are not all text or numbers ({first_line(error)}). "
                "Convert them."
            ) from None
    if datasets is not None and isinstance(data, datasets.Dataset | datasets.DatasetDict):
        return _from_datasets(data, datasets, columns, place)
    return None, []


def _from_datasets(data: Any, datasets: Any, columns: Asked, place: str) -> tuple[pa.Table, list[str]]:
    from fedprofit.data.sources.hub import SPLIT_COLUMN, tables_of

    parts = list(data.values()) if isinstance(data, datasets.DatasetDict) else [data]
    named = named_columns(columns, parts[0].column_names if parts else [], [], place)
    tables = [table for table, _, _ in tables_of(data, named, place)]
    if not tables:
        raise UserError(f"{place}: it holds no rows. Check that the right data is given.")
    table = pa.concat_tables(tables)
    said = ["split"] * (SPLIT_COLUMN in table.column_names)
    return table.rename_columns(["split" if n == SPLIT_COLUMN else n for n in table.column_names]), said


def _is_columns(data: Any, columns: Asked) -> bool:
    """Return whether a mapping is from columns to values, not from clients to rows."""
    if not isinstance(data, Mapping):
        return False
    asked = columns.model_dump() if isinstance(columns, Columns) else dict(columns or {})
    return {asked.get("input") or "input", asked.get("target") or "target"} <= set(data)
