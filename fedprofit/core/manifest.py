"""Checksums of the files of a cached folder: recorded when it is made, verified when it is opened.

Hashing is quick, but not free: a model takes a second or more. So the files are hashed each time that the
folder is opened as long as they have 64 MiB in all, smallest first. A larger one is hashed once, and again
after its size, its times or its inode change; that it was is recorded in the folder (`.verified.json`),
where that can be written. Damage that leaves all three as they are (a failing disk) is thus noticed in small
files at once, and in large ones by `fedprofit doctor --verify`, which hashes everything.
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

Entries = Mapping[str, str]  # file below the folder -> SHA-256 of its bytes


def entries(folder: Path) -> dict[str, str]:
    """Hash all files of a folder, by their paths below it."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: file_hash(found[name]) for name in sorted(found) if name != VERIFIED}


def verify(folder: Path, recorded: Entries, everything: bool = False) -> list[str]:
    """Return the files of a folder that are missing or are not what was recorded.

    Args:
        folder: where the files are.
        recorded: the hash of each.
        everything: whether to hash large files too that have not changed since they were verified.
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
        with suppress(OSError, UserError):  # a cache that cannot be written is verified each time
            write_record(folder / VERIFIED, now)
    return sorted(damaged)


def _state(path: Path) -> list[int]:
    """Return size, times and inode of a file; nothing if it is not there."""
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
