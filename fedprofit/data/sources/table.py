"""The user's own table: a JSONL, CSV or Parquet file with columns that the settings name."""

import gzip
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from fedprofit.core.errors import UserError, first_line
from fedprofit.core.files import expanded
from fedprofit.data.settings import Columns, TableSource
from fedprofit.data.sources import delimited, jsonl
from fedprofit.data.sources.columns import to_pool, wanted
from fedprofit.data.sources.reading import Numbering, Reading
from fedprofit.data.sources.text import Rows

KINDS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".json": "jsonl"}


def read(settings: TableSource, reading: Reading) -> pa.Table:
    """Read the table at `settings.path` into POOL_SCHEMA.

    The format follows the suffix: .parquet; .csv or .tsv; .jsonl or .json with one object a line; the text
    formats also with .gz. Only the named columns are kept.

    Raises UserError: no such file, another suffix, an empty or damaged file. What is wrong with its rows goes
    into `reading`, see `columns.to_pool`.
    """
    path = expanded(settings.path)
    place, columns = str(path), settings.columns
    kind = _kind(path)
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "there is no such file"
        raise UserError(f"{path}: {what} (data.source.path). Check the path.")
    try:
        if kind == "parquet":
            rows = _read_parquet(path, columns)
        else:
            data = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
            encoding = settings.encoding
            if kind == "csv":
                rows = delimited.read(data, columns, encoding, settings.separator, place, reading)
            else:
                rows = jsonl.read(data, columns, encoding, place, reading)
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        reason = first_line(error).rstrip(".")
        raise UserError(
            f"{path}: not readable as {path.suffix.lstrip('.')}: {reason}. The file may be empty, cut "
            "off or of another format; write it again, or correct data.source.path."
        ) from None
    return to_pool(rows.table, columns, place, reading, rows)


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix == ".gz" and path.with_suffix("").suffix.lower() != ".parquet":
        suffix = path.with_suffix("").suffix.lower()
    if suffix not in KINDS:
        raise UserError(
            f"{path}: the suffix {suffix!r} is not that of a table (data.source.path). Use "
            + ", ".join(KINDS)
            + ", or for data sets of the Hugging Face hub source kind: hub."
        )
    return KINDS[suffix]


def _read_parquet(path: Path, columns: Columns) -> Rows:
    names = pyarrow.parquet.read_schema(path).names
    table = pyarrow.parquet.read_table(path, columns=wanted(columns, names, str(path)))
    return Rows(table, [], Numbering())
