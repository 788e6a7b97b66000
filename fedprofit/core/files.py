"""Atomic file writes: write a temporary file, sync it, then rename it."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedprofit.core.errors import UserError, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


CACHE = "FEDPROFIT_CACHE"  # environment variable that sets the cache folder
PATIENCE = 5.0  # seconds to wait for a locked folder: workers of a killed process end soon


def expanded(path: str | os.PathLike[str]) -> Path:
    """Expand `~` in a path. Raise UserError if the home folder is unknown."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: the home folder for ~ is unknown. Write the full path.") from None


def base_folder(variable: str, below_home: str) -> Path | None:
    """Return the folder that the variable names, else one below the home folder, else None.

    >>> base_folder("", ".cache") == Path.home() / ".cache"
    True
    """
    if named := os.environ.get(variable):
        return Path(named)
    try:
        return Path.home() / below_home
    except RuntimeError:
        return None


def cache_folder() -> Path:
    """Return the folder for models and tokenized data: `FEDPROFIT_CACHE`, else the user's cache folder.

    Raises UserError if both are unknown, for example for a user without a home folder.
    """
    if named := os.environ.get(CACHE):
        return expanded(named)
    base = base_folder("XDG_CACHE_HOME", ".cache")
    if base is None:
        raise UserError(
            f"The cache folder is unknown: this user has no home folder. Set the {CACHE} variable to a "
            "writable folder."
        )
    return base / "fedprofit"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path` (file or folder); rename it to `path` on success.

    On any error the temporary file is removed and `path` is unchanged. File modes follow the umask,
    whichever library wrote the file. A device or pipe, such as /dev/stdout, is written to, not replaced.

    Raises UserError with the path and the remedy if the disk is full or the path is not writable.

    >>> import tempfile; folder = Path(tempfile.mkdtemp())
    >>> with atomic(folder / "note.txt") as temporary:
    ...     _ = temporary.write_text("done")
    >>> (folder / "note.txt").read_text()
    'done'
    """
    with path_in_errors(path, writes_only=True):
        if _is_device(path):
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder) / path.name
                _copy(Path(folder) / path.name, path)
            return
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            _make(path.parent)
            yield temporary
            _open_up(temporary)
            _sync(temporary)
            _move(temporary, path)
        finally:
            with suppress(OSError):
                if temporary.is_dir():
                    shutil.rmtree(temporary, ignore_errors=True)
                else:
                    temporary.unlink(missing_ok=True)


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Create a folder and hold an exclusive lock on it.

    The lock is released when the process ends. Raises UserError if another process holds the lock or the
    folder cannot be created.
    """
    _make(folder)
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _refused(folder, error) from None
    try:
        if not _lock(handle):
            raise UserError(
                f"{folder}: another process is using this folder. Wait until it ends, or choose another "
                "folder with --out."
            )
        yield
    finally:
        # Explicit unlock: forked workers that outlive a run inherit the lock, so closing is not enough.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _lock(handle: int) -> bool:
    """Try to lock a folder; return whether that succeeded."""
    patient = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > patient:
                return False
            time.sleep(0.1)
        except OSError:
            return True  # some file systems do not support locks
        else:
            return True


# Error codes of a path that is not writable.
REFUSALS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP,
    errno.ENXIO, errno.ENODEV,
}  # fmt: skip


@contextmanager
def path_in_errors(path: Path, writes_only: bool = False) -> Iterator[None]:
    """Convert errors for a full disk or an unwritable path at or below `path` to `UserError`.

    With `writes_only`, also convert errors of libraries such as safetensors, which keep only the text of the
    system error.
    """
    try:
        yield
    except Exception as error:
        code, text = getattr(error, "errno", None), str(error)
        if code in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text:
            raise UserError(
                f"{path}: no space is left on the disk; no partial file was written. Free some space, or "
                f"choose another folder with --out or the {CACHE} variable."
            ) from error
        if isinstance(error, OSError) and code in REFUSALS:
            named = error.filename if isinstance(error.filename, str) else None
            within = path.parent if writes_only else path
            if _is_below(Path(named), within) if named else writes_only:
                raise _refused(path, error) from error
        elif writes_only and (found := next((c for c in REFUSALS if f"(os error {c})" in text), None)):
            raise _refused(path, OSError(found, os.strerror(found))) from error
        raise


def _is_below(path: Path, folder: Path) -> bool:
    return path.absolute().is_relative_to(folder.absolute())


def _refused(path: Path, error: OSError) -> UserError:
    """Return the error for an unwritable path, with the setting that selects another one."""
    remedy = "copy the folder to a writable location, or choose one with --out"
    with suppress(UserError):
        if _is_below(path, cache_folder()):
            remedy = f"or set the {CACHE} variable to a writable folder"
    return UserError(f"{path}: cannot be written ({error.strerror}). Change its permissions, {remedy}.")


def _make(folder: Path) -> None:
    """Create a folder and its parents. Raise UserError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _refused(folder, error) from None


def _is_device(path: Path) -> bool:
    """Return whether a path is a device or pipe, or refers to one, as /dev/stdout does."""
    special = path.exists() and not path.is_file() and not path.is_dir()
    return special or str(path.absolute().parent) in ("/dev", "/dev/fd")


def _copy(file: Path, device: Path) -> None:
    with open(file, "rb") as written, open(device, "ab") as out:
        shutil.copyfileobj(written, out)


def _open_up(path: Path) -> None:
    """Set the default modes on a file, or on a folder and its content; safetensors writes 0600."""
    mask = os.umask(0o077)  # reading the umask requires setting it; 0o077 is safe for other threads
    os.umask(mask)
    for each in [path, *(path.rglob("*") if path.is_dir() else ())]:
        with suppress(OSError):  # some file systems do not support modes
            each.chmod((0o777 if each.is_dir() else 0o666) & ~mask)


def _sync(path: Path) -> None:
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())


def _move(temporary: Path, path: Path) -> None:
    if temporary.is_dir() and path.is_dir():
        return  # another process created the folder; folders addressed by content are equal
    try:
        os.replace(temporary, path)
    except OSError as error:
        # Another process created the folder after the check; the error code depends on the file system.
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
    """Write a value as indented JSON atomically."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Return a value as indented JSON. Raise ValueError for values that JSON cannot hold, such as NaN."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically with a library's writer, for example `frame.write_parquet`."""
    with atomic(path) as temporary:
        write(temporary)


def write_figure(path: Path, figure: "Figure", dpi: int) -> None:
    """Write a figure atomically in the format of the path's suffix. Equal figures give equal bytes.

    >>> import tempfile; from matplotlib.figure import Figure
    >>> path = Path(tempfile.mkdtemp()) / "empty.svg"
    >>> write_figure(path, Figure(), dpi=100)
    >>> path.read_text()[:5]
    '<?xml'
    """
    import matplotlib
    from matplotlib.text import Text
    from matplotlib.ticker import FuncFormatter

    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_formatter(), FuncFormatter):  # its labels are recreated when drawn
            axis.set_ticklabels([printable(label.get_text()) for label in axis.get_ticklabels()])
    for text in figure.findobj(Text):
        text.set_text(printable(text.get_text()))
        text.set_parse_math(False)  # dollar signs in users' names are literal
    kind = path.suffix[1:].lower()
    # By default matplotlib writes the current date and random SVG ids.
    undated: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with atomic(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "fedprofit"}):
        figure.savefig(temporary, format=kind, dpi=dpi, metadata=undated.get(kind))


def content_hash(value: Any) -> str:
    """Return a short hash of a JSON-like value. It does not depend on the order of keys.

    >>> content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
