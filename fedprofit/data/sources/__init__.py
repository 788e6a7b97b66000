"""Data sources: each returns a table of the same schema (`data/pool.py`), and a hash of what it reads."""

import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from fedprofit.config.component import where_of
from fedprofit.core.errors import UserError, first_line
from fedprofit.core.files import content_hash, file_hash
from fedprofit.data.sources.base import SourceSettings, portable

if TYPE_CHECKING:
    import pyarrow as pa

    from fedprofit.data.tables.reading import Reading

HASHED = 256 * 2**20  # bytes; of larger files only size and modification time are compared


def read_source(settings: SourceSettings, seed: int, reading: "Reading | None" = None) -> "pa.Table":
    """Read a source into a table of POOL_SCHEMA.

    Args:
        settings: the source.
        seed: for sources that sample their tasks or instances.
        reading: collects findings, and decides whether bad rows are skipped; by default they raise an error.

    Raises:
        UserError: see the source. It names all unusable rows at once.
    """
    from fedprofit.data.tables.reading import Reading

    reading = reading or Reading()
    pool = settings.read(seed, reading) if settings.is_built_in() else _read_foreign(settings, seed, reading)
    reading.settle(settings.place)
    return pool


def _read_foreign(settings: SourceSettings, seed: int, reading: "Reading") -> "pa.Table":
    """Read a plug-in's source. Raise UserError, with file and line, if it fails or returns another table."""
    import pyarrow as pa

    from fedprofit.data.pool import GROUP, POOL_SCHEMA
    from fedprofit.data.tables.columns import check

    whose = f"data.source.kind: {settings.kind} ({where_of(type(settings))})"
    try:
        pool = settings.read(seed, reading)
    except UserError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"{whose}: read() failed: {first_line(error, True)}, {frame.filename}:{frame.lineno}. Correct it."
        ) from error
    if not isinstance(pool, pa.Table) or pool.schema not in (POOL_SCHEMA, POOL_SCHEMA.append(GROUP)):
        found = (
            f"columns {', '.join(pool.column_names)}" if isinstance(pool, pa.Table) else type(pool).__name__
        )
        raise UserError(
            f"{whose}: read() returned {found[:80]}, not a table of fedprofit.data.pool.POOL_SCHEMA. Return "
            "fedprofit.data.memory.read_rows(rows, self.place, reading)."
        )
    if pool.num_rows == 0 and not reading.bad:
        raise UserError(f"{whose}: read() returned no rows. Correct it.")
    return check(pool, settings.place, reading)


def fingerprint(settings: SourceSettings, seed: int) -> str:
    """Return a short hash that changes when the result of `read_source` would change.

    It covers the settings, the seed, the names and content of files (beyond 256 MiB their size and
    modification time), and the facts that the source names. If a plug-in's source names neither files nor
    facts, it covers the rows. A data set on the hub is identified only by its name and `revision`: set a
    revision to pin it.
    """
    values = portable(settings.model_dump(mode="json"))
    return content_hash({"settings": values, "seed": seed, "data": _data(settings, seed, with_times=True)})


def content(settings: SourceSettings) -> str:
    """Return a machine-independent short hash of all that a source reads; "" if nothing is found.

    Files are hashed by content; files beyond 256 MiB only by size.
    """
    data = _data(settings, 0, with_times=False)
    return content_hash(data) if data else ""


def _data(settings: SourceSettings, seed: int, with_times: bool) -> dict[str, str]:
    files = {name: _file(path, with_times) for name, path in settings.files().items()}
    data = files | dict(settings.facts())
    if settings.is_built_in():
        return data
    from fedprofit.plugins import used_plugins

    if data:
        return data | used_plugins(settings)
    from fedprofit.data.pool import rows_hash
    from fedprofit.data.tables.reading import Reading

    return {"rows": rows_hash(read_source(settings, seed, Reading(skip=True)))}


def files_below(path: Path, pattern: str = "*") -> dict[str, Path]:
    """Return a file, or the files of a folder by relative name; empty if the path does not exist."""
    if not path.is_dir():
        return {path.name: path} if path.is_file() else {}
    return {str(file.relative_to(path)): file for file in sorted(path.rglob(pattern)) if file.is_file()}


def package_versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the installed version of each package."""
    return {name: _version(name) for name in packages}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _file(path: Path, with_time: bool) -> str:
    status = path.stat()
    if status.st_size <= HASHED:
        return file_hash(path)
    return f"{status.st_size} {status.st_mtime_ns}" if with_time else str(status.st_size)
