"""Test that the benchmarks run on a tiny model, write their tables, and refuse unequal losses."""

import json
from argparse import Namespace
from dataclasses import replace
from importlib.util import find_spec

import flops
import generation
import numpy as np
import operators
import peers.peft_loop
import polars as pl
import pytest
import scale
import shapes
import throughput
import torch
import whole_process
from flops import forward_flops, training_flops, visible_pairs
from peers.peft_loop import peft_loop
from table import Measurement, Result, cells
from tiny import tiny_backbone, tiny_folder
from torch.utils.flop_counter import FlopCounterMode
from work import ADAM, Settings, check_losses, prepare

from fedprofit.backbone.engine import make_engine
from fedprofit.backbone.forward import Row, count_tokens, packed_losses, share_beginnings
from fedprofit.backbone.fused import fuse
from fedprofit.backbone.segments import FLAT
from fedprofit.core.errors import UserError
from fedprofit.core.types import ClientBatches, Example
from fedprofit.local.solver import solve
from fedprofit.tuner.prompt import KEY

IN_PROCESS = ["engine", "sequential", "peft"] + ["pfl"] * bool(find_spec("pfl"))


@pytest.fixture(autouse=True)
def short_peak_measurement(monkeypatch):
    monkeypatch.setattr(flops, "PEAK_SECONDS", 0.05)


SMALL = "--data lexicon --dtype float32 --clients 2 --rows 2 --steps 2 --threads 1 --no-definitions"


@pytest.fixture(autouse=True)
def clear_model_cache():
    """Clear the cache of models after each test: test folders differ."""
    yield
    prepare.cache_clear()


def check_table(folder, name, methods, lengths):
    found = json.loads((folder / f"{name}.json").read_text())
    assert [measurement["facts"]["length"] for measurement in found["measurements"]] == lengths
    for measurement in found["measurements"]:
        assert [result["method"] for result in measurement["results"]] == methods
        engine = measurement["results"][0]
        for result in measurement["results"]:
            ratios = [one / other for one, other in zip(result["seconds"], engine["seconds"], strict=True)]
            assert result["ratios"] == pytest.approx(ratios)
    table = (folder / f"{name}.md").read_text().splitlines()
    assert len({line.count("|") for line in table if line.startswith("|")}) == 1
    assert sum(line.startswith("|") for line in table) == (2 + len(methods)) * len(lengths)
    return found["measurements"]


def test_throughput_measures_all_methods_and_lengths(tmp_path, capsys):
    folders = ["--model", str(tiny_folder(tmp_path)), "--out", str(tmp_path / "out")]
    throughput.main([*SMALL.split(), "--length", "3", "5", "--repetitions", "2", *folders])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    short, long = check_table(tmp_path / "out", "throughput", IN_PROCESS, [3, 5])
    assert short["examples"] == long["examples"] == 2 * 2 * 2
    assert long["tokens"] - short["tokens"] == (5 - 3) * 8
    assert 0 < short["facts"]["flops"] < long["facts"]["flops"]
    assert short["facts"]["peak"] > 0
    assert all(any(method in line for line in lines) for method in IN_PROCESS)


def test_training_flops_match_torch_flop_counter():
    """Tokens and targets are multiples of the rounded sizes, so that the engine adds no padding."""
    backbone = tiny_backbone("llama")
    example = Example(*(np.full(count, 5, np.int32) for count in (10, 12, 17)), "task", ("",))
    rows = [Row(0, example)] * 3 + [
        Row(0, replace(example, source=example.source[:5], target=example.target[:13]))
    ]
    prompts = torch.zeros(1, 17, backbone.width, requires_grad=True)
    linear, head, attention = forward_flops(backbone, rows, 17)
    assert fuse(backbone.model)
    assert count_tokens(rows, 17) % FLAT == 0
    assert sum(len(row.example.target) for row in rows) % FLAT == 0
    with FlopCounterMode(display=False) as counter:
        packed_losses(backbone, prompts, rows, fused=True).sum().backward()
    counted = counter.get_flop_counts()["Global"]
    assert counted[torch.ops.aten.mm] == 2 * (linear + head)
    assert counted[torch.ops.aten.bmm] >= 3 * attention > 0
    linear, head, attention = forward_flops(backbone, share_beginnings(rows), 17)
    work = [ClientBatches("client", [[row.example for row in rows]], 4)]
    assert training_flops(backbone, work, 17) == 2 * (linear + head) + 3 * attention


def test_operators_reports_flops_of_matrix_products(tmp_path, capsys):
    model = str(tiny_folder(tmp_path))
    options = [*SMALL.replace("--steps 2 ", "").split(), "--length", "3", "5", "--repetitions", "1"]
    operators.main([*options, "--model", model, "--out", str(tmp_path / "out")])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    measured = json.loads((tmp_path / "out" / "operators.json").read_text())["measurements"]
    for length, found in zip((3, 5), measured, strict=True):
        work = prepare(Settings(model, "float32", "lexicon", False, 2, 2, 1, length, 1, 0))
        engine, start = make_engine(work.backbone, workers=1), {KEY: work.start.expand(2, -1, -1)}
        with FlopCounterMode(display=False) as counter:
            solve(engine, start, work.clients, ADAM)
        counted = counter.get_flop_counts()["Global"]
        assert found["flops"]["mm"] == counted[torch.ops.aten.mm]
        assert found["flops"]["bmm"] == counted[torch.ops.aten.bmm]
        assert set(found["flops"]) <= set(found["operators"])
        assert 0 < found["needed"] <= sum(found["flops"].values())
        *shares, _, _, _ = operators.table_rows(found, least=0)
        assert {row[0] for row in shares} == set(found["operators"])


def test_visible_pairs_match_causal_mask():
    rows = [
        Row(0, Example(*(np.full(n, 5, np.int32) for n in (3, source, 2)), "", ("",))) for source in (4, 6)
    ]
    before, visible = 2 + 3, 0
    for length in (4 + 1, 6 + 1):
        mask = torch.ones(before + length, before + length).tril()
        visible += int(mask[before:].sum())
    assert visible_pairs(rows, 2) == visible + int(torch.ones(before, before).tril().sum())


def test_throughput_always_measures_engine(tmp_path):
    folders = ["--model", str(tiny_folder(tmp_path)), "--out", str(tmp_path / "out")]
    throughput.main([*SMALL.split(), "--length", "3", "--repetitions", "1", "--methods", "peft", *folders])
    check_table(tmp_path / "out", "throughput", ["engine", "peft"], [3])


def test_throughput_compares_bfloat16_engine_with_float32_peft(tmp_path, monkeypatch):
    dtypes = []

    def loop(work):
        dtypes.append({parameter.dtype for parameter in work.backbone.model.parameters()})
        return peft_loop(work)

    monkeypatch.setattr(peers.peft_loop, "peft_loop", loop)
    # The bfloat16 peak takes minutes on a processor without bfloat16 arithmetic.
    monkeypatch.setattr(throughput, "matmul_peak", lambda engine: 1e12)
    folders = ["--model", str(tiny_folder(tmp_path)), "--out", str(tmp_path / "out")]
    small = SMALL.replace("float32", "bfloat16").split()
    methods = ["engine", "peft", "peft-float32"]
    throughput.main([*small, "--length", "3", "--repetitions", "1", "--methods", *methods, *folders])
    check_table(tmp_path / "out", "throughput", methods, [3])
    assert dtypes == [{torch.bfloat16}, {torch.float32}] * 2, "once to compare losses, once to time"


def test_whole_process_times_engine(tmp_path):
    folders = ["--model", str(tiny_folder(tmp_path)), "--out", str(tmp_path / "out")]
    sizes = ["--length", "3", "--repetitions", "1", "--rounds", "2"]
    whole_process.main([*SMALL.split(), *sizes, "--methods", "engine", *folders])
    (measurement,) = check_table(tmp_path / "out", "whole_process", ["engine"], [3])
    assert measurement["examples"] == 2 * 2 * 2 * 2
    ((first, second),) = measurement["facts"]["losses"]["engine"]
    assert second < first


def test_whole_process_reports_error_of_failed_method(tmp_path):
    settings = Settings(str(tmp_path), "float32", "lexicon", False, 2, 2, 2, 3, 1, 0)
    with pytest.raises(SystemExit, match=r"engine failed \(exit status 1\)(.|\n)*no config.json"):
        whole_process.run("engine", settings, 1)


def test_check_losses_names_unequal_loss():
    same = [[1.0, 2.0], [3.0]]
    label = "client {0} at step {1}"
    good = {"engine": same, "sequential": same, "peft": [[1.0005, 2.0], [3.0]]}
    check_losses(good, "sequential", 1e-3, label)
    for wrong in (3.1, float("nan")):
        with pytest.raises(SystemExit, match="peft: the loss of client 1 at step 1"):
            check_losses({"sequential": same, "peft": [[1.0, 2.0], [wrong]]}, "sequential", 1e-3, label)


def test_throughput_refuses_too_many_clients(tmp_path):
    options = ["--model", str(tiny_folder(tmp_path)), "--data", "lexicon", "--clients", "1000"]
    with pytest.raises(UserError, match="--clients 1000: only"):
        throughput.main([*options, "--dtype", "float32", "--threads", "1"])


def test_shapes_measures_random_models_per_cohort(tmp_path, capsys):
    small = "--shapes tiny --cohorts 1 3 --rows 2 --length 4 --repetitions 1 --device cpu --dtype float32"
    shapes.main([*small.split(), "--out", str(tmp_path)])
    found = json.loads((tmp_path / "shapes.json").read_text())["measurements"]
    assert [measurement["examples"] for measurement in found] == [2, 6]
    for measurement in found:
        assert [result["method"] for result in measurement["results"]] == ["engine", "sequential", "peft"]
        assert measurement["facts"]["flops"] > 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_shapes_measures_remaining_cohorts_when_losses_differ(tmp_path, monkeypatch):
    measure = shapes.measure

    def differ_first(backbone, cohort, args):
        if cohort == 1:
            raise SystemExit("peft: the loss differs")
        return measure(backbone, cohort, args)

    monkeypatch.setattr(shapes, "measure", differ_first)
    small = "--shapes tiny --cohorts 1 3 --rows 2 --length 4 --repetitions 1 --device cpu --dtype float32"
    with pytest.raises(SystemExit, match="tiny, 1 clients: peft: the loss differs"):
        shapes.main([*small.split(), "--methods", "engine", "--out", str(tmp_path)])
    (found,) = json.loads((tmp_path / "shapes.json").read_text())["measurements"]
    assert found["examples"] == 6


SMALL_POINT = {"population": 5, "cohort": 3, "length": 3, "threads": 1, "rows": 2}


def test_take_rounds_yields_settings_then_rounds(tmp_path):
    opened, *rounds = scale.take_rounds(SMALL_POINT, str(tiny_folder(tmp_path)), 64, range(2))
    assert opened["opened"] > 0
    assert {name: opened[name] for name in SMALL_POINT} == SMALL_POINT
    assert len(rounds) == 2
    assert all(one["seconds"] > 0 and one["tokens"] >= 3 * 2 * 3 for one in rounds)
    assert rounds[0]["peak_bytes"] <= rounds[1]["peak_bytes"], "a peak never decreases"
    table = pl.read_parquet(scale.population_table(5, 2))
    assert table["input"].str.extract(r"\((\d+)\)$").str.len_chars().unique().to_list() == [7]
    assert table["split"].value_counts().sort("split").rows() == [
        ("test", 5),
        ("train", 10),
        ("validation", 5),
    ]


def test_scale_measures_axis_and_draws_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scale, "BASE", SMALL_POINT)
    monkeypatch.setattr(scale, "AXES", {"cohort": (2,)})
    model = str(tiny_folder(tmp_path))
    (found,) = scale.measure("cohort", Namespace(model=model, token_budget=64, rounds=2))
    assert found["cohort"] == 2
    assert found["dtype"] in ("float32", "bfloat16")
    assert len(found["seconds"]) == 2, "the warm-up round is excluded"
    assert "cohort 2: " in capsys.readouterr().out
    scale.draw({"cohort": [found]}, "a processor", tmp_path / "scale.png")
    assert (tmp_path / "scale.png").stat().st_size > 1000
    monkeypatch.setattr(scale, "__file__", str(tmp_path / "nowhere.py"))  # the process fails at start
    with pytest.raises(SystemExit, match=r"cohort 2 failed \(exit status 2\)"):
        scale.Point("cohort", 2, Namespace(model=model, token_budget=64))


def test_generation_answers_equal_peft_row_by_row(tmp_path):
    folders = ["--model", str(tiny_folder(tmp_path)), "--out", str(tmp_path / "out")]
    sizes = ["--length", "3", "--repetitions", "1", "--new-tokens", "5", "--batch", "2"]
    generation.main([*SMALL.replace("steps 2", "steps 1").split(), *sizes, *folders])
    methods = ["engine", "engine-losses", "peft", "peft-batched"]
    (measurement,) = check_table(tmp_path / "out", "generation", methods, [3])
    assert measurement["examples"] == 2 * 4
    assert measurement["facts"]["agreement"]["peft"] == 1


def constant_rate(backbone):
    return (3.0,)


def test_matmul_peak_sums_rates_of_workers(monkeypatch):
    monkeypatch.setattr(flops, "products_rate", constant_rate)
    backbone = tiny_backbone()
    assert [flops.matmul_peak(make_engine(backbone, workers=count)) for count in (1, 2)] == [3, 6]


def test_cells_omit_peak_share_for_other_dtype():
    facts = {"flops": 6.0, "peak": 2.0}
    results = [Result(method, [6.0], [1.0]) for method in ("engine", "peft-float32")]
    measurement = Measurement("bfloat16", 4, 40, facts, results)
    assert [cells(measurement, result)[-1] for result in results] == ["50%", ""]
