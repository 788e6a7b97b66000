"""The throughput benchmark runs on a tiny model, writes what it promises, and refuses unequal losses."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from tiny import tiny_folder

THROUGHPUT = Path(__file__).resolve().parent.parent / "benchmarks" / "throughput.py"


@pytest.fixture(scope="module")
def throughput():
    spec = importlib.util.spec_from_file_location("throughput", THROUGHPUT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["throughput"] = module  # its dataclass looks its own module up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["throughput"]


def test_throughput_measures_three_methods(throughput, tmp_path, capsys):
    options = "--data lexicon --dtype float32 --clients 2 --rows 2 --steps 2 --length 3 --repetitions 1"
    places = ["--model", str(tiny_folder(tmp_path)), "--out", str(tmp_path / "out")]
    throughput.main([*options.split(), "--threads", "1", "--no-definitions", *places])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    found = json.loads((tmp_path / "out" / "throughput.json").read_text())
    assert [result["method"] for result in found["results"]] == ["engine", "sequential", "peft"]
    assert found["examples"] == 2 * 2 * 2
    engine = found["results"][0]
    for result in found["results"]:
        (rate,), (tokens,), (ratio,) = (
            result[name] for name in ("examples_per_second", "tokens_per_second", "ratios")
        )
        assert rate > 0
        assert tokens / rate == pytest.approx(found["tokens"] / found["examples"])
        assert ratio == pytest.approx(engine["examples_per_second"][0] / rate)
        assert any(result["method"] in line and f"{rate:.2f}" in line for line in lines)
    table = (tmp_path / "out" / "throughput.md").read_text().splitlines()
    assert len({line.count("|") for line in table if line.startswith("|")}) == 1
    assert sum(line.startswith("|") for line in table) == 2 + 3


def test_unequal_losses_are_refused_by_name(throughput):
    same = [[1.0, 2.0], [3.0]]
    throughput.check_losses({"engine": same, "sequential": same, "peft": [[1.0005, 2.0], [3.0]]}, 1e-3)
    for wrong in (3.1, float("nan")):
        with pytest.raises(SystemExit, match="peft: the loss of client 1 at step 1"):
            throughput.check_losses({"sequential": same, "peft": [[1.0, 2.0], [wrong]]}, 1e-3)


def test_too_many_clients_is_said_before_anything_runs(throughput, tmp_path):
    options = [
        "--model",
        str(tiny_folder(tmp_path)),
        "--data",
        "lexicon",
        "--clients",
        "1000",
        "--threads",
        "1",
    ]
    with pytest.raises(throughput.UserError, match="--clients 1000: only"):
        throughput.main(options)
