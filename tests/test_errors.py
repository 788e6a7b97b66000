"""Errors of other libraries in messages, also those without text."""

import pathlib
from pathlib import Path

import huggingface_hub
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from gguf_file import write_gguf
from pydantic import TypeAdapter
from tiny import tiny_folder

import fedprofit
from fedprofit.backbone import convert, fetch, load
from fedprofit.backbone.device import resolve_device
from fedprofit.core.errors import UserError
from fedprofit.data.sources import read_source
from fedprofit.data.sources.base import SourceSettings


def fail(error):
    def raises(*_: object, **__: object) -> None:
        raise error

    return raises


def source(**settings):
    return TypeAdapter(SourceSettings).validate_python(settings)


def device(folder, patch):
    patch.setattr(torch, "empty", fail(MemoryError()))
    resolve_device("cpu")


def tokenizer(folder, patch):
    patch.setattr(load.AutoTokenizer, "from_pretrained", fail(MemoryError()))
    load.load_backbone(str(tiny_folder(folder)), "float32", "cpu")


def weights(folder, patch):
    patch.setattr(load.AutoModelForCausalLM, "from_pretrained", fail(MemoryError()))
    load.load_backbone(str(tiny_folder(folder)), "float32", "cpu")


def gguf(folder, patch):
    write_gguf(folder / "tiny.gguf")
    patch.setattr(convert, "_read", fail(MemoryError()))
    fetch.from_gguf(folder / "tiny.gguf")


def hub_model(folder, patch):
    patch.setattr(huggingface_hub, "snapshot_download", fail(MemoryError()))
    fetch.get("smollm2-135m")


def table(folder, patch):
    (folder / "rows.csv").write_text("who,ask,want\na,b,c\n")
    patch.setattr(pathlib.Path, "read_bytes", fail(OSError()))
    columns = {"client": "who", "input": "ask", "target": "want"}
    read_source(source(kind="table", path=str(folder / "rows.csv"), columns=columns), 0)


def sni(folder, patch):
    (folder / "sni.parquet").write_bytes(b"PAR1")
    patch.setattr(pyarrow.parquet, "read_schema", fail(OSError()))
    read_source(source(kind="sni", path=str(folder / "sni.parquet")), 0)


def hub_data(folder, patch):
    datasets = pytest.importorskip("datasets")
    patch.setattr(datasets, "load_dataset", fail(OSError()))
    read_source(source(kind="hub", name="some/data", columns={"input": "ask", "target": "want"}), 0)


@pytest.mark.parametrize("act", [device, tokenizer, weights, gguf, hub_model, table, sni, hub_data])
def test_error_without_text_is_named_by_type(act, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDPROFIT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"MemoryError|OSError"):
        act(tmp_path, monkeypatch)


def test_only_first_line_splits_error_messages():
    package = Path(fedprofit.__file__).parent
    found = [path.name for path in package.rglob("*.py") if "splitlines()[0]" in path.read_text("utf-8")]
    assert found == []
