"""Test the cache of compiled code, also with damaged files and unwritable folders."""

import numba
import numpy as np
import pytest

from fedprofit.backbone.code_cache import cached
from fedprofit.core.places import numba_folder


def double(x):
    return x + x


def loop():
    return cached(numba.njit(double))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "code"))
    return tmp_path / "code"


def test_cached_code_is_loaded_from_disk(folder):
    assert loop()(np.float32(1.5)) == 3
    again = loop()
    assert again(np.float32(1.5)) == 3
    assert sum(again.stats.cache_hits.values()) == 1


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_cached_recompiles_damaged_code(folder, kind):
    loop()(np.float32(1.5))
    (file,) = folder.rglob(f"*.{kind}")
    content = file.read_bytes()
    drawn = np.random.Generator(np.random.PCG64(0)).integers(0, len(content), 20)
    for at in [*drawn, 0, len(content) - 1]:
        file.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
        again = loop()
        assert again(np.float32(1.5)) == 3
        assert not again.stats.cache_hits, f"the flipped bit at byte {at} was not detected"
    healed = loop()
    assert healed(np.float32(1.5)) == 3
    assert healed.stats.cache_hits, "recompiled code is cached"


def test_cached_compiles_when_folder_is_unwritable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "below"))
    found, reason = numba_folder()
    assert found is None
    assert reason == f"{tmp_path}/file/below cannot be written. Set NUMBA_CACHE_DIR to a writable folder."
    assert loop()(np.float32(1.5)) == 3


def test_cached_compiles_when_disk_is_full(folder, monkeypatch):
    again = loop()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(again._cache._cache_file), "_save_data", full)
    assert again(np.float32(1.5)) == 3
