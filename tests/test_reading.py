"""Checksums inside files, the module that reads them, and the manifest of cached folders."""

import ast
import os
import re
from pathlib import Path

import polars as pl
import pytest

import fedprofit
from fedprofit.core import manifest
from fedprofit.core.errors import UserError
from fedprofit.core.reading import damage, read_json, read_parquet, read_rows, read_yaml_text
from fedprofit.core.sealed import KEY, is_intact, write_record, write_yaml
from fedprofit.evaluate.results import write_frame

PACKAGE = Path(fedprofit.__file__).parent
FRAME = pl.DataFrame({"name": ["a", "b"] * 50, "value": [0.5, 1.5] * 50})


def flipped(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("value", [{"a": [1, {"b": None}], "é": "x"}, [{"round": 1}, {"round": 2}], {}, []])
def test_records_read_back_without_checksum(tmp_path, value):
    path = tmp_path / "a.json"
    write_record(path, value)
    assert KEY in path.read_text(encoding="utf-8")
    assert (read_rows(path, "") if isinstance(value, list) else read_json(path, "")) == value
    assert damage(path) == ""


@pytest.mark.parametrize("name", ["a.json", "a.parquet", "a.yaml"])
def test_is_intact_detects_every_flipped_bit(tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".json":
        write_record(path, {"value": 1.25, "note": "é"})
    elif path.suffix == ".yaml":
        write_yaml(path, "value: 1.25\n")
    else:
        write_frame(path, FRAME)
    original = path.read_bytes()
    for at in range(len(original)):
        content = bytearray(original)
        content[at] ^= 1 << (at % 8)
        assert not is_intact(bytes(content)), f"byte {at}"


def test_file_without_checksum_is_accepted(tmp_path):
    FRAME.write_parquet(tmp_path / "a.parquet")
    assert read_parquet(tmp_path / "a.parquet", "").equals(FRAME)
    (tmp_path / "a.json").write_text('[{"round": 1}]')
    assert read_rows(tmp_path / "a.json", "") == [{"round": 1}]


@pytest.mark.parametrize("folder", ["quickstart", "sni"])
def test_results_of_earlier_versions_are_readable(folder):
    from fedprofit.analyze.tables import open_tables

    place = PACKAGE.parent / "docs" / "results" / folder
    if not place.is_dir():
        pytest.skip("the package is not in a clone")
    assert len(open_tables(place).results)


def test_texts_like_checksums_are_preserved(tmp_path):
    text = f'"{KEY}": "{"0" * 64}"'
    write_record(tmp_path / "a.json", {"note": text})
    assert read_json(tmp_path / "a.json", "")["note"] == text
    write_frame(tmp_path / "a.parquet", pl.DataFrame({"note": [text]}))
    assert read_parquet(tmp_path / "a.parquet", "")["note"].to_list() == [text]
    write_yaml(tmp_path / "a.yaml", f"note: '{text}'\n")
    assert read_yaml_text(tmp_path / "a.yaml", "") == f"note: '{text}'\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"[" * 100_000, "damaged"),
        (b"[1]", "no keys and values"),
        (b'{"a": {}}', "has no 'a.b'"),
        (None, "cannot be read"),
    ],
)
def test_read_json_names_problem_and_remedy(tmp_path, content, reason):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.json: .*{reason}.* Do this\."):
        read_json(path, "Do this.", ["a.b"])


def test_read_parquet_converts_panic(tmp_path, monkeypatch):
    class PanicException(BaseException):
        """Like the exception of polars: not a subclass of Exception."""

    def panic(*_: object) -> None:
        raise PanicException("index out of bounds")

    FRAME.write_parquet(tmp_path / "a.parquet")
    monkeypatch.setattr(pl, "read_parquet", panic)
    with pytest.raises(UserError, match=r"a\.parquet: .*PanicException: index out of bounds.* Do this\."):
        read_parquet(tmp_path / "a.parquet", "Do this.")


# Calls that read JSON, YAML, Parquet, Arrow or safetensors files directly.
READERS = re.compile(
    r"json\.loads?|pl\.(read|scan)_\w+|pq\.\w+|parquet\.read_\w+|ipc\.open_\w+|safe_open|load_file|yaml\.load\w*"
)
# Users' data is read by `data/sources` and `data/tables`; mapped files belong to folders that `manifest` has
# verified.
# `runs/client_files.py` reads single rows of files that it has checked when it opened them.
ALLOWED = {"core/reading.py", "core/yaml_text.py", "data/store.py", "runs/client_files.py"}


def test_only_reading_module_reads_files():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        calls = [n.func for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)]
        if any(READERS.fullmatch(ast.unparse(call)) for call in calls):
            found.add(name)
    assert {name for name in found if not name.startswith(("data/sources/", "data/tables/"))} <= ALLOWED


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A folder with a small and a large file, its manifest, and the list of hashed file names."""
    (tmp_path / "folder").mkdir()
    folder = tmp_path / "folder"
    (folder / "small").write_bytes(b"x" * 10)
    (folder / "large").write_bytes(b"y" * 1000)
    recorded = manifest.entries(folder)
    monkeypatch.setattr(manifest, "SMALL", 100)
    hashed = []
    real = manifest.file_hash
    monkeypatch.setattr(manifest, "file_hash", lambda path: hashed.append(path.name) or real(path))
    return folder, recorded, hashed


def test_large_files_are_hashed_once_per_change(cached):
    folder, recorded, hashed = cached
    assert manifest.verify(folder, recorded) == []
    assert manifest.verify(folder, recorded) == []
    assert hashed == ["small", "large", "small"]
    os.utime(folder / "large", ns=(1, 1))
    assert manifest.verify(folder, recorded) == []
    assert hashed[3:] == ["small", "large"]
    assert manifest.verify(folder, recorded, everything=True) == []
    assert hashed[5:] == ["small", "large"]


def test_damaged_large_file_is_never_recorded_as_verified(cached):
    folder, recorded, _ = cached
    assert manifest.verify(folder, recorded) == []
    flipped(folder / "large", 500)
    assert manifest.verify(folder, recorded) == ["large"]
    assert manifest.verify(folder, recorded) == ["large"]
    (folder / "small").unlink()
    assert manifest.verify(folder, recorded) == ["large", "small"]


def test_verify_works_when_folder_is_read_only(cached, monkeypatch):
    folder, recorded, hashed = cached

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(manifest, "write_record", refuse)
    assert manifest.verify(folder, recorded) == []
    assert manifest.verify(folder, recorded) == []
    assert hashed == ["small", "large", "small", "large"]
