"""The example gate rule, through YAML: trained, scored and reported as a separate condition."""

from pathlib import Path
from statistics import fmean

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console
from tiny_run import write_config

import fedprofit
from fedprofit import plugins
from fedprofit.analyze.tables import open_tables
from fedprofit.backbone.forward import Row
from fedprofit.predict.rule import GateRule
from fedprofit.runs.bench import prepare
from fedprofit.runs.checkpoint import load_tensors

GATE = Path(__file__).parents[2] / "examples" / "plugins" / "gate.py"
KEYS = ["client", "scope", "task", "metric"]


@pytest.fixture
def loaded(monkeypatch):
    family = GateRule.family
    family.all_kinds()
    monkeypatch.setattr(family, "kinds", dict(family.kinds))
    monkeypatch.setattr(plugins, "_files", {})
    plugins.load_files([GATE])


def is_near(engine, own, row, neighbours, quantile):
    """Decide for one row in plain numpy."""
    table = engine.backbone.model.get_input_embeddings().weight.detach().numpy().astype(np.float64)

    def unit(example):
        mean = table[example.source].mean(0)
        return mean / np.linalg.norm(mean)

    points = [unit(example) for example in own]
    reached = [
        np.mean(sorted(float(p @ q) for j, q in enumerate(points) if j != i)[-neighbours:])
        for i, p in enumerate(points)
    ]
    near = np.mean(sorted(float(unit(row.example) @ p) for p in points)[-neighbours:])
    return near >= np.quantile(reached, quantile) - 1e-6


def test_gate_plugin_equals_a_plain_loop(tmp_path, loaded):
    assert len(GATE.read_text("utf-8").splitlines()) <= 60
    rule = {"kind": "nearest", "neighbours": 2, "quantile": 0.4}
    tuned = {
        "name": "tune",
        "steps": 3,
        "client": {"rate": 0.3},
        "predictors": [
            {"kind": "gate", "name": "near", "rule": rule},
            {"kind": "interpolated", "alpha": 0.5},
        ],
        "interpolation": [0.5],
    }
    path = write_config(tmp_path, personalization=[tuned], baselines={"local": None, "central": None})
    config = fedprofit.load_config(path)
    folder = fedprofit.run(config, out=tmp_path / "run")
    results = fedprofit.read_results(folder.path).filter(pl.col("algorithm") == "avg")
    served = results.filter(pl.col("condition") == "served")
    assert set(served["setting"]) == {"tune.near", "tune.interpolated"}

    tensors, facts = load_tensors(folder.prompts("personalized-avg-tune"))
    shared, _ = load_tensors(folder.prompts("federated-avg"))
    bench = prepare(config)
    answered = {True: 0, False: 0}
    for position, client in enumerate(facts["clients"]):
        for scope, examples in {"local": bench.sets.local[client], **bench.sets.shared}.items():
            by_task = {}
            for example in examples:
                near = is_near(bench.engine, bench.train_examples(client), Row(0, example), 2, 0.4)
                answered[bool(near)] += 1
                prompt = tensors["step-3.prompt"][position] if near else shared["last.prompt"]
                loss = float(bench.engine.score(prompt[None], [Row(0, example)])) / len(example.target)
                by_task.setdefault(example.task, []).append(loss)
            expected = fmean(map(fmean, by_task.values()))
            found = served.filter(setting="tune.near", client=client, scope=scope, metric="loss", task="")[
                "value"
            ].item()
            assert found == pytest.approx(expected, rel=1e-5)
    assert min(answered.values()) > 0, "some rows of either kind"

    def values(frame):
        return frame.sort(KEYS).select(*KEYS, "value", "count")

    halfway = results.filter(pl.col("condition") == "personalized", pl.col("alpha") == 0.5)
    assert values(halfway).equals(values(served.filter(setting="tune.interpolated")))
    fedprofit.write_report(folder.path, Console(quiet=True))
    assert "tune.near" in (folder.path / "report.html").read_text("utf-8")
    costs = {row["setting"]: row for row in open_tables(folder.path).serving}
    examples = fmean(len(bench.train_examples(client)) for client in facts["clients"])
    assert costs["tune"]["bytes"] == costs["tune.interpolated"]["bytes"] == 4 * 3 * 32
    near = 4 * (2 * 3 * 32 + 32 * round(examples))
    assert costs["tune.near"] == {
        "setting": "tune.near", "predictor": "gate", "passes": 1, "tokens": 3, "bytes": near,
    }  # fmt: skip
    assert f"| tune.near | gate | 1 | 3 | {near:,} |" in (folder.path / "table.md").read_text("utf-8")


def test_gate_plugin_accepts_clients_with_few_inputs(loaded):
    from ragged import ragged_batch
    from tiny import tiny_backbone

    from fedprofit.backbone.engine import Engine
    from fedprofit.predict.base import PredictorContext, build_predictor
    from fedprofit.predict.gate import Gate
    from fedprofit.tuner.prompt import SoftPrompt

    engine, own = Engine(tiny_backbone("llama"), "packed"), {"none": [], "one": ragged_batch(0, 1)}
    params = {"prompt": torch.zeros(2, 1, 32)}
    context = PredictorContext(
        engine,
        SoftPrompt(length=1).build(),
        params,
        {"prompt": params["prompt"][0]},
        list(own),
        own.__getitem__,
    )
    gate = build_predictor(Gate(rule=GateRule.family.find("nearest")()), context)
    rows = [Row(k, example) for k in range(2) for example in ragged_batch(0, 2)]
    assert not gate.choose(rows).any()
