"""numba's cache of compiled code in a folder of ours, which does without what it cannot read or write.

Left to itself, numba raises where it finds no folder to write to, where the disk is full, and where a file is
damaged; and it runs machine code that was damaged without looking. Whether code is kept changes no number.
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
    """The files of a function's code, its index and its data; each ends in a hash, which pickle skips."""

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
        raise ValueError("kept code is damaged")


class _Cache(FunctionCache):
    """A function's code, where it can be read and written."""

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        own = self._impl.locator
        self._cache_file = _Files(own.get_cache_path(), self._impl.filename_base, own.get_source_stamp())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # unpickling damaged bytes raises whatever they spell
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(Exception):
            super().save_overload(sig, data)


def kept(dispatcher: Any) -> Any:
    """Let a compiled function keep its code; return it."""
    folder, _ = numba_folder()
    if folder is None:
        return dispatcher
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder)  # for this function: what others compile stays where they keep it
    try:
        dispatcher._cache = _Cache(dispatcher.py_func)
    except (RuntimeError, OSError):  # the folder could be made a moment ago, or is full
        pass
    finally:
        config.CACHE_DIR = before
    return dispatcher
