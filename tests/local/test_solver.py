"""The stacked solver, compared with the sequential reference."""

import dataclasses

import pytest
import torch
from ragged import ragged_cohort
from tiny import tiny_backbone

from fedprofit.backbone.engine import Engine
from fedprofit.backbone.fused import fuse
from fedprofit.local.objective import Proximal
from fedprofit.local.optimizer import Adam, AdamW, ClientOptimizerSettings, Momentum, Sgd
from fedprofit.local.reference import Sequential
from fedprofit.local.solver import Vectorized, gradients, solve

OPTIMIZERS = [
    Sgd(rate=0.1),
    Momentum(rate=0.05, weight_decay=0.1),
    Adam(rate=0.02),
    AdamW(rate=0.02, weight_decay=0.1),
]

PATHS = [(family, "packed") for family in ("llama", "gpt2", "qwen2")]
PATHS += [("llama", "fused"), ("qwen2", "fused")]


def start_of(backbone, clients, length=4):
    generator = torch.Generator().manual_seed(7)
    return {"prompt": torch.randn(clients, length, backbone.width, generator=generator) * 0.3}


def proximal(weight, anchor):
    return [Proximal(weight, anchor)] if weight else []


@pytest.mark.parametrize(("family", "path"), PATHS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o.kind)
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_solver_equals_reference(family, path, optimizer, weight):
    backbone = tiny_backbone(family)
    cohort, start = ragged_cohort(), start_of(backbone, 4)
    expected, _ = Sequential(backbone, "eager").solve(start, cohort, optimizer, proximal(weight, start))
    assert path == "packed" or fuse(backbone.model)
    for budget in (4096, 40):  # one forward pass, and many micro-batches
        result, _ = solve(Engine(backbone, path, budget), start, cohort, optimizer, proximal(weight, start))
        torch.testing.assert_close(result.params, expected.params, rtol=1e-5, atol=1e-5)
        assert result.steps == expected.steps == [3, 1, 0, 2]
        assert result.tokens == expected.tokens
        for ours, theirs in zip(result.losses, expected.losses, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)
    assert torch.equal(result.params["prompt"][2], start["prompt"][2]), "a client without data must not move"


def test_snapshots_are_the_shorter_runs():
    backbone = tiny_backbone("llama")
    cohort, start = ragged_cohort(), start_of(backbone, 4)
    engine, optimizer = Engine(backbone, "packed"), OPTIMIZERS[2]
    _, kept = solve(engine, start, cohort, optimizer, snapshots=[1, 2, 3])
    for step, params in kept.items():
        shorter = [dataclasses.replace(w, batches=w.batches[:step]) for w in cohort]
        expected, _ = solve(engine, start, shorter, optimizer)
        assert torch.equal(params["prompt"], expected.params["prompt"])


def fast(backbone):
    return Vectorized(Engine(backbone, "packed"))


@pytest.mark.parametrize("make", [fast, Sequential], ids=["vectorized", "reference"])
def test_solver_stops_a_diverging_client_by_name(make):
    backbone = tiny_backbone("llama")
    cohort, start = ragged_cohort(), start_of(backbone, 4)
    solver, optimizer = make(backbone), OPTIMIZERS[0]
    clean, _ = solver.solve(start, cohort, optimizer)
    broken = {"prompt": start["prompt"].clone()}
    broken["prompt"][1] = float("nan")
    result, _ = solver.solve(broken, cohort, optimizer)
    assert list(result.stopped) == ["c1"]
    assert "step 1" in result.stopped["c1"]
    assert result.steps == [3, 0, 0, 2]
    for client in (0, 2, 3):
        torch.testing.assert_close(result.params["prompt"][client], clean.params["prompt"][client])


@pytest.mark.parametrize("make", [fast, Sequential], ids=["vectorized", "reference"])
@pytest.mark.parametrize("kind", ["sgd", "momentum", "adamw"])
def test_solver_refuses_a_step_to_infinite_parameters(kind, make):
    """Loss and gradient are finite; weight decay moves client 1, which starts far out, beyond float32."""
    backbone = tiny_backbone("llama")
    cohort, start = ragged_cohort(), start_of(backbone, 4)
    cohort = [dataclasses.replace(client, batches=client.batches[:1]) for client in cohort]
    start["prompt"][1] *= 1000
    optimizer = ClientOptimizerSettings.model_validate({"kind": kind, "rate": 1.0, "weight_decay": 1e37})
    result, kept = make(backbone).solve(start, cohort, optimizer, snapshots=[1])
    assert result.stopped == {"c1": "parameters not finite at local step 1"}
    assert result.steps == [1, 0, 0, 1]
    assert torch.isfinite(kept[1]["prompt"]).all()
    assert torch.equal(result.params["prompt"][1], start["prompt"][1])


def test_micro_batches_give_the_same_gradient():
    backbone = tiny_backbone("llama")
    start = start_of(backbone, 4)
    batches = [client.batches[0] if client.batches else () for client in ragged_cohort()]
    single = gradients(Engine(backbone, "packed", 4096), start, batches)
    split = gradients(Engine(backbone, "packed", 30), start, batches)
    torch.testing.assert_close(single.gradients, split.gradients, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(single.losses, split.losses)
    assert single.tokens == split.tokens
    assert single.losses[2] == 0
    assert not single.gradients["prompt"][2].any()
