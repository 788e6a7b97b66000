"""`memory`: rows from Python, stored in the cache; `fedprofit.data.memory.dataset` makes it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from fedprofit.core.errors import UserError
from fedprofit.core.files import cache_folder
from fedprofit.data.sources.base import TabularSource

if TYPE_CHECKING:
    import pyarrow as pa

    from fedprofit.data.tables.reading import Reading


class MemorySource(TabularSource, kind="memory"):
    """Rows from Python, stored in the cache; `fedprofit.data.memory.dataset(rows)` makes it."""

    checks_early: ClassVar[bool] = True

    rows: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    """The hash of the rows."""

    @property
    def place(self) -> str:
        """The rows by their hash."""
        return f"rows in memory {self.rows}"

    @property
    def path(self) -> Path:
        """The Parquet file of the cache that holds the rows."""
        return cache_folder() / "data" / f"rows-{self.rows}.parquet"

    def facts(self) -> Mapping[str, str]:
        """Return the hash of the rows."""
        return {"rows": self.rows}

    def read(self, seed: int, reading: "Reading") -> "pa.Table":
        """Read the rows from the cache. Raise UserError if they are missing or damaged."""
        import pyarrow as pa
        import pyarrow.parquet

        from fedprofit.data.tables.columns import to_pool

        remedy = "Recreate data.source with fedprofit.data.memory.dataset, from the same rows."
        try:
            table = pyarrow.parquet.read_table(self.path)
        except FileNotFoundError:
            raise UserError(
                f"data.source.rows: the rows {self.rows} are not in the cache ({self.path}). {remedy}"
            ) from None
        except (pa.ArrowException, OSError):
            table = None
        if table is None or hash_of(table) != self.rows:
            raise UserError(f"{self.path}: is damaged. Remove it. {remedy}")
        return to_pool(table, self.columns, self.place, reading)


def hash_of(table: "pa.Table") -> str:
    """Return a short hash of a table's column names and values."""
    digest = hashlib.sha256(json.dumps(table.column_names).encode())
    for batch in table.to_batches(max_chunksize=65536):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            digest.update(json.dumps(row, default=str).encode() + b"\n")
    return digest.hexdigest()[:16]
