"""Checksums of the files of a cached folder: recorded when it is created, verified when it is opened.

Hashing a model takes a second or more. Therefore the smallest files, up to 64 MiB in total, are hashed each
time the folder is opened. Larger files are hashed once, and again if their size, times or inode change. The
folder's `.verified.json` records this, if it is writable. Silent damage, such as a failing disk, is thus
detected at once in small files, and in large files by `fedprofit doctor --verify`, which hashes everything.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fedprofit.core.errors import UserError
from fedprofit.core.files import file_hash
from fedprofit.core.reading import read_json
from fedprofit.core.sealed import write_record

SMALL = 64 * 2**20  # bytes
VERIFIED = ".verified.json"

Entries = Mapping[str, str]  # path relative to the folder -> SHA-256


def entries(folder: Path) -> dict[str, str]:
    """Return the hash of each file of a folder, by its relative path."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: file_hash(found[name]) for name in sorted(found) if name != VERIFIED}


def verify(folder: Path, recorded: Entries, everything: bool = False) -> list[str]:
    """Return the files of a folder that are missing or differ from their recorded hash.

    Args:
        folder: the folder of the files.
        recorded: the recorded hash of each file.
        everything: whether to also hash large files that are unchanged since they were verified.
    """
    states = {name: _state(folder / name) for name in recorded}
    damaged = {name for name, state in states.items() if not state}
    known, now = _known(folder), dict[str, Any]()
    hashed = 0
    for name in sorted(set(recorded) - damaged, key=lambda name: (states[name][0], name)):
        fact = [*states[name], recorded[name]]
        hashed += states[name][0]
        small = hashed <= SMALL
        if (small or everything or known.get(name) != fact) and not _has_hash(folder / name, recorded[name]):
            damaged.add(name)
        elif not small:
            now[name] = fact
    if now != known:
        with suppress(OSError, UserError):  # a read-only cache is verified each time
            write_record(folder / VERIFIED, now)
    return sorted(damaged)


def _state(path: Path) -> list[int]:
    """Return size, times and inode of a file; empty if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _has_hash(path: Path, expected: str) -> bool:
    try:
        return file_hash(path) == expected
    except OSError:
        return False


def _known(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / VERIFIED, "")
    except UserError:
        return {}
