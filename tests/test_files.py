"""Atomic files, content hashes, and derived random generators."""

import errno
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import matplotlib
import numpy as np
import polars as pl
import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file

from fedprofit.core import files
from fedprofit.core.errors import UserError
from fedprofit.core.files import (
    atomic,
    cache_folder,
    content_hash,
    exclusive_lock,
    expanded,
    file_hash,
    write_figure,
    write_json,
    write_text,
    write_with,
)
from fedprofit.core.places import LIBRARIES, WRITTEN, numba_folder, settle, usable
from fedprofit.core.seeding import numpy_generator, torch_generator


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def fail(path: Path, write: Callable[[Path, str], object], error: type[BaseException]) -> None:
    with atomic(path) as temporary:
        write(temporary, "half")
        raise error


@pytest.mark.parametrize("before", [None, "old"])
def test_atomic_restores_file_after_error(tmp_path, before):
    path = tmp_path / "deep" / "note.txt"
    if before is not None:
        write_text(path, before)
    with pytest.raises(KeyError):
        fail(path, Path.write_text, KeyError)
    assert tree(tmp_path) == ({} if before is None else {"deep/note.txt": "old"})


def test_atomic_leaves_no_folder_after_error(tmp_path):
    path = tmp_path / "store"

    def write(temporary: Path, text: str) -> None:
        (temporary / "inner").mkdir(parents=True)
        (temporary / "inner" / "a.bin").write_text(text)

    with pytest.raises(KeyError):
        fail(path, write, KeyError)
    assert list(tmp_path.iterdir()) == []


def test_atomic_leaves_nothing_after_interrupt(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "note.txt", Path.write_text, KeyboardInterrupt)
    assert list(tmp_path.iterdir()) == []


def test_atomic_replaces_file_only_on_success(tmp_path):
    path = tmp_path / "note.txt"
    write_text(path, "old")
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent, "a rename must not cross file systems"
    assert tree(tmp_path) == {"note.txt": "new"}


def test_atomic_keeps_folder_created_by_another_process(tmp_path):
    path = tmp_path / "store"
    with atomic(path) as temporary:
        temporary.mkdir()
        (temporary / "a").write_text("ours")
        with atomic(path) as other:
            other.mkdir()
            (other / "a").write_text("theirs")
    assert tree(tmp_path) == {"store/a": "theirs"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("where", ["write", "sync", "rename"])
def test_full_disk_raises_user_error(tmp_path, monkeypatch, code, where):
    path = tmp_path / "results.json"
    write_text(path, "old")

    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    if where != "write":
        monkeypatch.setattr(os, {"sync": "fsync", "rename": "replace"}[where], full)
    with pytest.raises(UserError, match=r"results\.json: no space is left .* FEDPROFIT_CACHE"):
        write_with(path, full if where == "write" else lambda temporary: temporary.write_text("new"))
    assert tree(tmp_path) == {"results.json": "old"}


def test_other_disk_errors_are_not_converted(tmp_path):
    def broken(_: Path) -> None:
        raise OSError(errno.EIO, "input/output error")

    with pytest.raises(OSError, match="input/output"):
        write_with(tmp_path / "a", broken)


@pytest.fixture
def short_patience(monkeypatch):
    monkeypatch.setattr(files, "PATIENCE", 0.2)


HOLD = """
import sys, time
from pathlib import Path
from fedprofit.core.files import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


def test_exclusive_lock_locks_folder_until_process_ends(tmp_path, short_patience):
    place = tmp_path / "new" / "folder"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(place)], stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"in\n"
    with pytest.raises(UserError, match="another process is using this folder"), exclusive_lock(place):
        pass
    other.kill()
    other.wait()
    with exclusive_lock(place):
        assert place.is_dir()


def test_exclusive_lock_releases_lock_despite_forked_worker(tmp_path, short_patience):
    with exclusive_lock(tmp_path):
        worker = get_context("fork").Process(target=time.sleep, args=(60,))
        worker.start()
    try:
        with exclusive_lock(tmp_path):
            assert worker.is_alive()
    finally:
        worker.kill()


def test_exclusive_lock_refuses_folder_below_file(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"file/below: cannot be written .* --out"),
        exclusive_lock(tmp_path / "file/below"),
    ):
        pass


@pytest.fixture
def read_only(tmp_path_factory):
    """A folder that this process can read but not write."""
    place = Path(tempfile.mkdtemp())  # other users cannot enter pytest's own folders
    folder = place / "given"
    folder.mkdir()
    (folder / "note.txt").write_text("old")
    place.chmod(0o755)
    folder.chmod(0o555)
    was = os.geteuid()
    if was == 0:
        os.seteuid(12345)  # permission bits do not restrict root
    try:
        yield folder
    finally:
        os.seteuid(was)
        folder.chmod(0o755)
        shutil.rmtree(place)


def safetensors(path: Path) -> None:
    save_file({"a": torch.zeros(2)}, path)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("new"),
        lambda path: path.mkdir(),
        safetensors,
        pl.DataFrame({"a": [1]}).write_parquet,
    ],
    ids=["text", "folder", "safetensors", "parquet"],
)
def test_unwritable_folder_raises_user_error(read_only, monkeypatch, write):
    with pytest.raises(UserError, match=r"given/note.txt: cannot be written .*denied.* --out"):
        write_with(read_only / "note.txt", write)
    monkeypatch.setenv("FEDPROFIT_CACHE", str(read_only))
    with pytest.raises(UserError, match=r"below: cannot be written .*denied.* FEDPROFIT_CACHE"):
        write_with(read_only / "below" / "note.txt", write)
    with (
        pytest.raises(UserError, match=r"given/run: cannot be written .*denied"),
        exclusive_lock(read_only / "run"),
    ):
        pass
    assert not usable(read_only / "new" / "folder")


@pytest.mark.parametrize("below", ["file/note.txt", f"{'long' * 80}.txt", "folder"])
def test_unwritable_name_raises_user_error(tmp_path, below):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_text(tmp_path / below, "new")


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002])
def test_file_modes_follow_umask(tmp_path, mask):
    was = os.umask(mask)
    try:
        write_with(tmp_path / "a.safetensors", safetensors)
        with atomic(tmp_path / "folder") as temporary:
            temporary.mkdir(0o700)
            safetensors(temporary / "a.safetensors")
    finally:
        os.umask(was)
    modes = {str(p.relative_to(tmp_path)): p.stat().st_mode & 0o777 for p in tmp_path.rglob("*")}
    file, folder = 0o666 & ~mask, 0o777 & ~mask
    assert modes == {"a.safetensors": file, "folder": folder, "folder/a.safetensors": file}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has the device /dev/full")
def test_device_is_written_to_not_replaced(tmp_path):
    with pytest.raises(UserError, match="/dev/full: no space is left"):
        write_text(Path("/dev/full"), "new")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "new")
    assert os.read(reader, 9) == b"new"
    os.close(reader)


def remove_home(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    usual = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "FEDPROFIT_CACHE", "NUMBA_CACHE_DIR")
    for name in (*usual, *LIBRARIES, *WRITTEN):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda number: {}[number])  # a user without a name


def test_missing_home_requires_cache_variable(monkeypatch):
    remove_home(monkeypatch)
    with pytest.raises(UserError, match=r"no home folder\. Set the FEDPROFIT_CACHE variable"):
        cache_folder()
    with pytest.raises(UserError, match=r"~/data: the home folder .* Write the full path"):
        expanded("~/data")
    found, reason = numba_folder()
    assert (found, "FEDPROFIT_CACHE" in reason) == (None, True)
    settle()
    assert "HOME" not in os.environ


@pytest.mark.parametrize("home", [None, "/proc/none", "hub"])
def test_settle_names_cache_folders_when_home_is_unwritable(monkeypatch, tmp_path, read_only, home):
    os.seteuid(os.getuid())
    remove_home(monkeypatch)
    if home == "hub":  # a readable folder of models
        (read_only / ".cache" / "huggingface").mkdir(parents=True)
        (read_only / ".cache" / "huggingface").chmod(0o555)
    cache = read_only.parent / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    if os.getuid() == 0:
        os.seteuid(12345)
    monkeypatch.setenv("FEDPROFIT_CACHE", str(cache))
    if home:
        monkeypatch.setenv("HOME", str(read_only) if home == "hub" else home)
    before = dict(os.environ)
    settle()
    given = {name: value for name, value in os.environ.items() if before.get(name) != value}
    assert all(value.startswith(str(cache)) for value in given.values())
    assert ("HOME" in given) == (home is None)
    if home == "hub":
        assert not {"HF_HOME", "HOME"} & set(given)
        assert {"MPLCONFIGDIR", *WRITTEN} <= set(given)
    elif home:
        assert set(given) == set(LIBRARIES)


def test_settle_changes_nothing_when_home_is_writable(monkeypatch, tmp_path):
    remove_home(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = dict(os.environ)
    settle()
    assert dict(os.environ) == before


def test_write_json_is_strict(tmp_path):
    write_json(tmp_path / "a.json", {"é": [1, None]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "é": [\n    1,\n    null\n  ]\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", float("nan"))
    assert not (tmp_path / "b.json").exists()


def test_hashes_depend_only_on_content(tmp_path):
    value = {"a": [1, {"x": None, "y": "é"}], "b": 0.5}
    assert content_hash(value) == content_hash({"b": 0.5, "a": [1, {"y": "é", "x": None}]})
    others = [
        {**value, "b": 1},
        {**value, "c": 0},
        {**value, "a": [{"x": None, "y": "é"}, 1]},
        [value],
        "a",
        1,
        "1",
    ]
    assert len({content_hash(other) for other in [value, *others]}) == len(others) + 1
    (tmp_path / "empty").write_bytes(b"")
    assert file_hash(tmp_path / "empty") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_cache_folder_follows_variables(monkeypatch):
    monkeypatch.setenv("FEDPROFIT_CACHE", "~/models")
    assert cache_folder() == Path.home() / "models"
    monkeypatch.delenv("FEDPROFIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/fedprofit")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "fedprofit"


def make_figure():
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], marker="o", label="a line, clipped and with markers: both get ids in an SVG")
    axes.legend()
    return figure


@pytest.mark.parametrize("kind", ["png", "svg", "pdf", "SVG"])
def test_write_figure_is_deterministic(tmp_path, kind):
    paths = [tmp_path / f"{name}.{kind}" for name in ("one", "other")]
    for path in paths:
        write_figure(path, make_figure(), dpi=80)
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert b"CreationDate" not in first
    assert b"<dc:date>" not in first
    assert matplotlib.rcParams["svg.hashsalt"] is None, "other figures are unaffected"


def numpy_draw(*key: object) -> tuple[float, ...]:
    return tuple(numpy_generator(*key).random(3))


def torch_draw(*key: object) -> tuple[float, ...]:
    return tuple(torch.rand(3, generator=torch_generator(*key), dtype=torch.float64).tolist())


@pytest.mark.parametrize("draw", [numpy_draw, torch_draw])
def test_draws_depend_only_on_key(draw):
    keys = [
        (0, "batches"),
        (1, "batches"),
        (0, "cohort"),
        (0, "batches", 1),
        (0, "batches", "1"),
        (0, "batches", 1, 2),
        (0, "batches", 2, 1),
        (0, "batches", 12),
        (0, "batches", "1", "2"),
        (0, "batches", ""),
        (-1, "batches"),
    ]
    first = [draw(*key) for key in keys]
    np.random.seed(5)
    torch.manual_seed(5)
    again = [draw(*key) for key in reversed(keys)][::-1]
    assert first == again
    assert len(set(first)) == len(keys)
    state = torch.get_rng_state()
    draw(0, "batches")
    assert torch.equal(torch.get_rng_state(), state), "the global generators are unchanged"


def test_draws_are_pinned():
    """Results must be equal in all versions of this package."""
    assert numpy_generator(0, "cohort", 3).bit_generator.random_raw(2).tolist() == [
        11903006433042278135,
        3230665877034791306,
    ]
