"""Files that are whole or absent: written beside their place, synced, then renamed into it."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedprofit.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PATIENCE = 5.0  # seconds until a folder that is in use is given up: workers of a killed process end soon


def cache_folder() -> Path:
    """Return the folder for models and tokenized data: `FEDPROFIT_CACHE`, else the user's cache."""
    named = os.environ.get("FEDPROFIT_CACHE")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fedprofit"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` (file or folder); rename it into place on success.

    On any error the temporary is removed and `path` is as it was. A full disk is reported as a
    `UserError` that names the place.

    >>> import tempfile; folder = Path(tempfile.mkdtemp())
    >>> with atomic(folder / "note.txt") as temporary:
    ...     _ = temporary.write_text("done")
    >>> (folder / "note.txt").read_text()
    'done'
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with naming_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _sync(temporary)
            _move(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make a folder, and keep out of it meanwhile all others who ask for it so.

    A process lets go when it ends, however that comes. Raises UserError if another one stays, or if the
    folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}). Choose another place with --out."
        ) from None
    try:
        if not _lock(handle):
            raise UserError(
                f"{folder}: another process works here. Wait until it has ended, or choose another place "
                "with --out."
            )
        yield
    finally:
        # Said, not left to closing: forked workers, who outlive a run, hold the same lock.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _lock(handle: int) -> bool:
    """Take a folder's lock; tell whether it could be had."""
    patient = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > patient:
                return False
            time.sleep(0.1)
        except OSError:
            return True  # some file systems have no locks
        else:
            return True


@contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Turn "no space left", whichever library reports it, into a `UserError` that names the place."""
    try:
        yield
    except Exception as error:
        # safetensors and polars write with code of their own and keep only the text.
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left on device" in str(error):
            raise UserError(
                f"{path}: no space is left on the disk; nothing was half-written. Free some space, or choose "
                "another place with --out or the FEDPROFIT_CACHE variable."
            ) from error
        raise


def _sync(path: Path) -> None:
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())


def _move(temporary: Path, path: Path) -> None:
    if temporary.is_dir() and path.is_dir():
        return  # another process made the same folder meanwhile; what is addressed by content is equal
    try:
        os.replace(temporary, path)
    except OSError as error:
        # The same, between the check and the rename; file systems call it by either name.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically (UTF-8)."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Return a value as indented JSON; ValueError for what JSON cannot hold, such as NaN."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically with a library's own writer, for example `frame.write_parquet`."""
    with atomic(path) as temporary:
        write(temporary)


def write_figure(path: Path, figure: "Figure", dpi: int) -> None:
    """Write a figure atomically, in the format that the name ends in; the same figure gives the same bytes.

    >>> import tempfile; from matplotlib.figure import Figure
    >>> path = Path(tempfile.mkdtemp()) / "empty.svg"
    >>> write_figure(path, Figure(), dpi=100)
    >>> path.read_text()[:5]
    '<?xml'
    """
    import matplotlib
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a dollar sign in a user's name is one
    kind = path.suffix[1:].lower()
    # Left to itself, matplotlib writes the date into both and draws an SVG's ids at random.
    undated: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with atomic(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "fedprofit"}):
        figure.savefig(temporary, format=kind, dpi=dpi, metadata=undated.get(kind))


def content_hash(value: Any) -> str:
    """Return a short hash of a JSON-like value, equal for equal content whatever the key order.

    >>> content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
