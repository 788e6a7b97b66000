"""The user's own table: a JSONL, CSV or Parquet file with columns that the settings name."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from fedprofit.data.settings import Columns, TableSource
from fedprofit.data.sources.columns import to_pool, wanted
from fedprofit.errors import UserError, first_line
from fedprofit.files import expanded

BLOCK = 16 * 2**20  # bytes; no single row may be longer


def read(settings: TableSource) -> pa.Table:
    """Read the table at `settings.path` into POOL_SCHEMA.

    The format follows the suffix: .parquet; .csv; .jsonl or .json with one object a line; the text
    formats also with .gz. Only the named columns are kept.

    Raises UserError: no such file, another suffix, an empty or damaged file, and whatever
    `columns.to_pool` finds in the rows.
    """
    path = expanded(settings.path)
    reader = _reader(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file (data.source.path). Check the path.")
    try:
        table = reader(path, settings.columns)
    except (pa.ArrowException, OSError, EOFError) as error:
        hint = " with one JSON object a line" if reader is _read_json else ""
        reason = first_line(error).rstrip(".")
        raise UserError(
            f"{path}: not readable as {path.suffix.lstrip('.')}{hint}: {reason}. The file may be empty, cut "
            "off or of another format; write it again, or correct data.source.path."
        ) from None
    return to_pool(table, settings.columns, str(path))


def _reader(path: Path) -> Callable[[Path, Columns], pa.Table]:
    readers = {".parquet": _read_parquet, ".csv": _read_csv, ".jsonl": _read_json, ".json": _read_json}
    suffix = path.suffix.lower()
    if suffix == ".gz" and path.with_suffix("").suffix.lower() != ".parquet":
        suffix = path.with_suffix("").suffix.lower()
    if suffix not in readers:
        raise UserError(
            f"{path}: the suffix {suffix!r} is not that of a table (data.source.path). Use "
            + ", ".join(readers)
            + ", or for data sets of the Hugging Face hub source kind: hub."
        )
    return readers[suffix]


def _read_parquet(path: Path, columns: Columns) -> pa.Table:
    names = pyarrow.parquet.read_schema(path).names
    return pyarrow.parquet.read_table(path, columns=wanted(columns, names, str(path)))


def _read_csv(path: Path, columns: Columns) -> pa.Table:
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    block = pyarrow.csv.ReadOptions(block_size=BLOCK)
    with pyarrow.csv.open_csv(path, read_options=block, parse_options=parse) as head:
        names = wanted(columns, head.schema.names, str(path))
    # Every column is read as text: "007" and "NA" stay what they are.
    convert = pyarrow.csv.ConvertOptions(
        include_columns=names, column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
    )
    return pyarrow.csv.read_csv(path, read_options=block, parse_options=parse, convert_options=convert)


def _read_json(path: Path, columns: Columns) -> pa.Table:
    block = pyarrow.json.ReadOptions(block_size=BLOCK)
    table = pyarrow.json.read_json(path, read_options=block)
    table = table.select(wanted(columns, table.column_names, str(path)))
    if not any(_holds_dates(field.type) for field in table.schema):
        return table
    # Arrow takes text such as 2020-01-31 for a date and would write it back differently.
    schema = pa.schema([(f.name, _dates_as_text(f.type)) for f in table.schema])
    parse = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    return pyarrow.json.read_json(path, read_options=block, parse_options=parse)


def _holds_dates(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind.value_type if pa.types.is_list(kind) else kind))


def _dates_as_text(kind: pa.DataType) -> pa.DataType:
    if not _holds_dates(kind):
        return kind
    return pa.list_(pa.string()) if pa.types.is_list(kind) else pa.string()
