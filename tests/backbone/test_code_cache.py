"""Compiled code that is kept; damaged, or where nothing can be written, it is compiled anew."""

import numba
import numpy as np
import pytest

from fedprofit.backbone.code_cache import kept
from fedprofit.core.places import numba_folder


def double(x):
    return x + x


def loop():
    return kept(numba.njit(double))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "code"))
    return tmp_path / "code"


def test_code_is_kept_for_other_processes(folder):
    assert loop()(np.float32(1.5)) == 3
    again = loop()
    assert again(np.float32(1.5)) == 3
    assert sum(again.stats.cache_hits.values()) == 1


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_damaged_code_is_compiled_anew(folder, kind):
    loop()(np.float32(1.5))
    (file,) = folder.rglob(f"*.{kind}")
    content = file.read_bytes()
    places = np.random.Generator(np.random.PCG64(0)).integers(0, len(content), 20)
    for place in [*places, 0, len(content) - 1]:
        file.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        again = loop()
        assert again(np.float32(1.5)) == 3
        assert not again.stats.cache_hits, f"a flip at {place} was not noticed"
    healed = loop()
    assert healed(np.float32(1.5)) == 3
    assert healed.stats.cache_hits, "what was compiled anew is kept"


def test_code_is_compiled_where_nothing_can_be_kept(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "below"))
    found, reason = numba_folder()
    assert found is None
    assert reason == f"{tmp_path}/file/below cannot be written. Set NUMBA_CACHE_DIR to a folder that can be."
    assert loop()(np.float32(1.5)) == 3


def test_a_full_disk_keeps_no_code_and_loses_none(folder, monkeypatch):
    again = loop()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(again._cache._cache_file), "_save_data", full)
    assert again(np.float32(1.5)) == 3
