"""Files that are whole or absent: written beside their place, synced, then renamed into it."""

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


CACHE = "FEDPROFIT_CACHE"  # the variable that names the cache folder
PATIENCE = 5.0  # seconds until a folder that is in use is given up: workers of a killed process end soon


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with its `~` replaced; UserError where that home folder is not known."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: the home folder behind ~ is not known. Write the whole path.") from None


def base_folder(variable: str, below_home: str) -> Path | None:
    """Return the user's folder of a kind: that of the variable, else one below the home; None without home.

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
    """Return the folder for models and tokenized data: `FEDPROFIT_CACHE`, else the user's cache.

    Raises UserError where neither is known, as for a user without a home folder.
    """
    if named := os.environ.get(CACHE):
        return expanded(named)
    base = base_folder("XDG_CACHE_HOME", ".cache")
    if base is None:
        raise UserError(
            f"The cache folder is not known: this user has no home folder. Set the {CACHE} variable to a "
            "folder that can be written."
        )
    return base / "fedprofit"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` (file or folder); rename it into place on success.

    On any error the temporary is removed and `path` is as it was. Modes follow the umask, whatever the
    library that wrote. A device or pipe, such as /dev/stdout, is written to, not replaced.

    Raises UserError, naming the place and the setting, if the disk is full or the place cannot be written.

    >>> import tempfile; folder = Path(tempfile.mkdtemp())
    >>> with atomic(folder / "note.txt") as temporary:
    ...     _ = temporary.write_text("done")
    >>> (folder / "note.txt").read_text()
    'done'
    """
    with naming_place(path, writes_only=True):
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
def alone_in(folder: Path) -> Iterator[None]:
    """Make a folder, and keep out of it meanwhile all others who ask for it so.

    A process lets go when it ends, however that comes. Raises UserError if another one stays, or if the
    folder cannot be made.
    """
    _make(folder)
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _refused(folder, error) from None
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


# What the system calls a place that cannot be written.
REFUSALS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP,
    errno.ENXIO, errno.ENODEV,
}  # fmt: skip


@contextmanager
def naming_place(path: Path, writes_only: bool = False) -> Iterator[None]:
    """Turn a full disk, and a refusal to write at or below `path`, into a `UserError` that names the place.

    With `writes_only`, so are refusals of libraries such as safetensors, which keep only the system's text.
    """
    try:
        yield
    except Exception as error:
        code, text = getattr(error, "errno", None), str(error)
        if code in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text:
            raise UserError(
                f"{path}: no space is left on the disk; nothing was half-written. Free some space, or choose "
                f"another place with --out or the {CACHE} variable."
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
    """Say that a place cannot be written, and which setting names another."""
    remedy = "copy the folder to a place that can be written, or name one with --out"
    with suppress(UserError):
        if _is_below(path, cache_folder()):
            remedy = f"or set the {CACHE} variable to a folder that can be written"
    return UserError(f"{path}: cannot be written ({error.strerror}). Change its permissions, {remedy}.")


def _make(folder: Path) -> None:
    """Make a folder and those above it; UserError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _refused(folder, error) from None


def _is_device(path: Path) -> bool:
    """Tell whether a path is a device or pipe, or names one's output as /dev/stdout does."""
    special = path.exists() and not path.is_file() and not path.is_dir()
    return special or str(path.absolute().parent) in ("/dev", "/dev/fd")


def _copy(file: Path, device: Path) -> None:
    with open(file, "rb") as written, open(device, "ab") as out:
        shutil.copyfileobj(written, out)


def _open_up(path: Path) -> None:
    """Give a file, or a folder and all in it, the modes that new ones have; safetensors writes 0600."""
    mask = os.umask(0o077)  # there is no way to read it alone; tight, for what another thread makes meanwhile
    os.umask(mask)
    for each in [path, *(path.rglob("*") if path.is_dir() else ())]:
        with suppress(OSError):  # some file systems have no modes
            each.chmod((0o777 if each.is_dir() else 0o666) & ~mask)


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
    from matplotlib.ticker import FuncFormatter

    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_formatter(), FuncFormatter):  # ticks are named; made anew when drawn
            axis.set_ticklabels([printable(label.get_text()) for label in axis.get_ticklabels()])
    for text in figure.findobj(Text):
        text.set_text(printable(text.get_text()))
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
