"""`table`: a JSONL, CSV or Parquet file, with columns named by the settings."""

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import AfterValidator

from fedprofit.core.errors import UserError, first_line
from fedprofit.core.files import expanded
from fedprofit.data.sources.base import Columns, FilePath, TabularSource

if TYPE_CHECKING:
    import pyarrow as pa

    from fedprofit.data.tables.reading import Reading
    from fedprofit.data.tables.text import TextTable

KINDS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".json": "jsonl"}


def _one_character(value: str) -> str:
    if len(value) != 1 or value in '"\r\n\0':
        raise ValueError(f"should be one character, and no quote or line break (found {value[:80]!r})")
    return value


class TableSource(TabularSource, kind="table"):
    """Your own table: a JSONL, CSV or Parquet file."""

    checks_early: ClassVar[bool] = True

    path: FilePath
    """The file: .parquet; .csv or .tsv; .jsonl or .json with one object per line; text files also as .gz."""
    encoding: str | None = None
    """The encoding of a text file, such as utf-16 or cp1252; default: that of its byte-order mark,
    else utf-8."""
    separator: Annotated[str, AfterValidator(_one_character)] | None = None
    """The character between the fields of a CSV file; detected if not given."""

    @property
    def place(self) -> str:
        """The path."""
        return str(expanded(self.path))

    def files(self) -> Mapping[str, Path]:
        """Return the file."""
        from fedprofit.data.sources import files_below

        return files_below(expanded(self.path))

    def read(self, seed: int, reading: "Reading") -> "pa.Table":
        """Read the named columns.

        Raises:
            UserError: no such file, an unknown suffix, or an empty or damaged file. Errors in its rows go
                into `reading`, see `columns.to_pool`.
        """
        return _read(self, reading)


def _read(settings: TableSource, reading: "Reading") -> "pa.Table":
    import pyarrow as pa

    from fedprofit.data.tables import delimited, jsonl
    from fedprofit.data.tables.columns import to_pool

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


def _read_parquet(path: Path, columns: Columns) -> "TextTable":
    import pyarrow.parquet

    from fedprofit.data.tables.columns import wanted
    from fedprofit.data.tables.reading import Numbering
    from fedprofit.data.tables.text import TextTable

    names = pyarrow.parquet.read_schema(path).names
    table = pyarrow.parquet.read_table(path, columns=wanted(columns, names, str(path)))
    return TextTable(table, [], Numbering())
