"""A disk cache for numba's compiled code that tolerates unreadable, unwritable and damaged files.

numba itself raises if no folder is writable, if the disk is full, or if a file is damaged, and it executes
damaged machine code unchecked. Caching does not change any result.
"""

# mypy: allow-untyped-calls
import hashlib
import pickle
from contextlib import suppress
from typing import Any

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile

from fedprofit.core.places import numba_folder


class _Files(IndexDataCacheFile):
    """Index and data files of a function's code, each with a trailing SHA-256 that pickle ignores."""

    def _dump(self, obj: Any) -> bytes:
        data: bytes = super()._dump(obj)
        return data + hashlib.sha256(data).digest()

    def _load_index(self) -> Any:
        with suppress(FileNotFoundError), open(self._index_path, "rb") as handle:
            pickle.load(handle)  # numba's version
            _check(handle.read())
        return super()._load_index()

    def _load_data(self, name: str) -> Any:
        with open(self._data_path(name), "rb") as handle:
            _check(handle.read())
        return super()._load_data(name)


def _check(data: bytes) -> None:
    if hashlib.sha256(data[:-32]).digest() != data[-32:]:
        raise ValueError("cached code is damaged")


class _Cache(FunctionCache):
    """Cache of a function's code; errors of reading and writing cause recompilation."""

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        locator = self._impl.locator
        self._cache_file = _Files(
            locator.get_cache_path(), self._impl.filename_base, locator.get_source_stamp()
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # unpickling damaged bytes can raise anything
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(Exception):
            super().save_overload(sig, data)


def cached(dispatcher: Any) -> Any:
    """Enable the disk cache of a compiled function; return the function."""
    folder, _ = numba_folder()
    if folder is None:
        return dispatcher
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder)  # for this function only; other packages keep their cache folder
    try:
        dispatcher._cache = _Cache(dispatcher.py_func)
    except (RuntimeError, OSError):  # the folder has become unwritable
        pass
    finally:
        config.CACHE_DIR = before
    return dispatcher
