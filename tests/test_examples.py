"""The examples run as scripts, and match the package's results."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_backbone, tiny_folder

from fedprofit.algorithm.base import Context
from fedprofit.algorithm.fedavg import FedAvg
from fedprofit.backbone.engine import Engine
from fedprofit.core.types import ClientBatches, Example
from fedprofit.local.optimizer import Adam
from fedprofit.local.solver import Vectorized

PLAIN = Path(__file__).resolve().parent.parent / "examples" / "fedavg_plain.py"
ROW = re.compile(r"^(\w.*?)\s+(\d+\.\d{3})\s+(\d+\.\d)\s+(\d+\.\d{3})\s+(\d+\.\d)$", re.MULTILINE)


@pytest.fixture(scope="module")
def plain():
    spec = importlib.util.spec_from_file_location("fedavg_plain", PLAIN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_fedavg_plain_runs_and_lowers_local_loss(tmp_path):
    options = (
        "--clients 2 --cohort 2 --rounds 2 --steps 2 --length 4 --tokens 2 --rate 0.1 --personal-rate 0.1"
    )
    finished = subprocess.run(
        [sys.executable, str(PLAIN), "--model", str(tiny_folder(tmp_path)), *options.split()],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    assert [line.split(":")[0] for line in finished.stdout.splitlines()[:2]] == ["round 1", "round 2"]
    table = {name: [float(value) for value in values] for name, *values in ROW.findall(finished.stdout)}
    assert list(table) == ["base model, no prompt", "federated prompt", "personalized", "halfway between"]
    assert table["personalized"][0] < table["federated prompt"][0]
    assert all(0 <= rouge <= 100 for row in table.values() for rouge in (row[1], row[3]))


def test_fedavg_plain_matches_package(plain):
    backbone = tiny_backbone("llama")
    rows = [{"input": f"place {'x' * i}", "targets": [f"answer {i * 7}"]} for i in range(7)]
    own = [plain.make_example(backbone, row) for row in rows]
    clients = [[own[:3], own[3:5]], [own[5:]]]  # two steps and one
    start = torch.randn(4, backbone.width, generator=torch.Generator().manual_seed(0)) * 0.3

    def ours(example):
        source, target = (np.array(part, dtype=np.int32) for part in (example.source, example.target))
        return Example(np.zeros(0, np.int32), source, target, "", tuple(example.references))

    settings = FedAvg(name="f", steps=2, client=Adam(rate=0.03))
    context = Context(Vectorized(Engine(backbone, "packed")))
    algorithm = settings.build(context)
    cohort = [
        ClientBatches(str(k), [[ours(e) for e in batch] for batch in batches], sum(map(len, batches)))
        for k, batches in enumerate(clients)
    ]
    state, _ = algorithm.round(algorithm.init({"prompt": start}), cohort, context.at(1))

    backbone.model.set_attn_implementation("sdpa")  # restore the model's default attention
    ends = [plain.train(backbone, start, batches, 0.03) for batches in clients]
    expected = (5 * ends[0] + 2 * ends[1]) / 7
    torch.testing.assert_close(state.params["prompt"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", sorted(PLAIN.parent.glob("plugins/*.py")), ids=lambda path: path.stem)
def test_example_plugin_is_short_and_uses_public_names(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    names = [
        name.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fedprofit")
        for name in node.names
    ]
    assert names
    assert not [name for name in names if name.startswith("_")]
