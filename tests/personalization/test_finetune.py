"""Fine-tuning by clients: points, batches, the proximal term, and interpolation."""

import numpy as np
import pytest
import torch
from ragged import ragged_batch, solve_one
from tiny import tiny_backbone

from fedprofit.backbone.engine import Engine
from fedprofit.core.types import ClientBatches
from fedprofit.local import solver as module
from fedprofit.local.objective import Proximal
from fedprofit.local.optimizer import Adam, Sgd
from fedprofit.local.solver import Vectorized
from fedprofit.personalization.finetune import FineTune
from fedprofit.tuner.prompt import SOFT_PROMPT

CLIENTS = ["ann", "bob", "cid"]
DATA = {"ann": ragged_batch(1, 7), "bob": ragged_batch(2, 3), "cid": []}


@pytest.fixture(scope="module")
def engine():
    return Engine(tiny_backbone("llama"), "packed")


@pytest.fixture(scope="module")
def start(engine):
    generator = torch.Generator().manual_seed(7)
    return {"prompt": torch.randn(4, engine.backbone.width, generator=generator) * 0.3}


def settings(**values):
    values = {"name": "slow", "client": Adam(rate=0.02), "batch_size": 2, **values}
    return FineTune(**values if "epochs" in values else {"steps": 5, **values})


def tuned(engine, start, clients=CLIENTS, seed=0, **values):
    return settings(**values).build(Vectorized(engine))(start, clients, DATA.__getitem__, seed)


def test_points_are_the_shorter_trainings(engine, start):
    complete = tuned(engine, start, evaluate_at=(1, 3, 99))
    assert list(complete.points) == [1, 3, 5]
    assert complete.clients == CLIENTS
    for step, params in complete.points.items():
        short = tuned(engine, start, steps=step)
        assert list(short.points) == [step]
        assert torch.equal(params["prompt"], short.points[step]["prompt"])
        assert torch.equal(params["prompt"][2], start["prompt"]), "a client without data stays"
    assert torch.equal(complete.points[5]["prompt"], complete.result.params["prompt"])
    assert complete.result.steps == [5, 5, 0]


def test_points_of_epochs_end_with_longest_client(engine, start):
    # Two epochs of batches of two: ann has 2 x 4 steps, bob 2 x 2.
    done = tuned(engine, start, epochs=2, evaluate_at=(3, 6))
    assert list(done.points) == [3, 6, 8]
    assert done.result.steps == [8, 4, 0]
    bob = [params["prompt"][1] for params in done.points.values()]
    assert not torch.equal(bob[0], bob[1])
    assert torch.equal(bob[1], bob[2]), "bob ended after step 4"


def batches_of(monkeypatch, engine, start, **values):
    """Run and return the batches that the solver gets."""
    seen = []

    def catch(engine, params, cohort, *more):
        seen.extend(cohort)
        return original(engine, params, cohort, *more)

    original = module.solve
    with monkeypatch.context() as patch:
        patch.setattr(module, "solve", catch)
        tuned(engine, start, **values)
    return {w.client: [[id(example) for example in batch] for batch in w.batches] for w in seen}


def test_batches_depend_on_seed_and_client_only(monkeypatch, engine, start):
    first = batches_of(monkeypatch, engine, start)
    other = {"prompt": start["prompt"] + 1}
    assert batches_of(monkeypatch, engine, other, client=Sgd(rate=1.0), proximal=0.5) == first
    single = batches_of(monkeypatch, engine, start, clients=["bob"])
    assert single == {"bob": first["bob"]}
    longer = batches_of(monkeypatch, engine, start, steps=9)
    assert all(longer[client][:5] == first[client] for client in CLIENTS), "more steps extend the batches"
    assert batches_of(monkeypatch, engine, start, seed=1) != first
    with monkeypatch.context() as patch:
        patch.setitem(DATA, "cid", DATA["ann"])
        same = batches_of(monkeypatch, engine, start)
    assert same["cid"] != same["ann"], "each client has its own order"
    own = {id(example) for example in DATA["ann"]}
    assert {number for batch in first["ann"][:4] for number in batch} == own, "an epoch reads all once"


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_training_matches_reference_by_client(monkeypatch, engine, start, weight):
    batches = batches_of(monkeypatch, engine, start)
    by_id = {id(example): example for data in DATA.values() for example in data}
    done = tuned(engine, start, proximal=weight)
    for number, client in enumerate(CLIENTS):
        own = [[by_id[key] for key in batch] for batch in batches[client]]
        anchor = {key: tensor[None] for key, tensor in start.items()}
        terms = [Proximal(weight, anchor)] if weight else []
        params, losses = solve_one(
            engine.backbone, start, ClientBatches(client, own, 1), Adam(rate=0.02), terms
        )
        torch.testing.assert_close(done.points[5]["prompt"][number], params["prompt"], rtol=1e-4, atol=1e-4)
        assert done.result.losses[number] == pytest.approx(losses, abs=1e-4)


def test_strong_proximal_term_stays_near_start(engine, start):
    far = [
        (tuned(engine, start, steps=20, proximal=weight, client=Sgd(rate=0.005)).points[20]["prompt"])
        for weight in (0.0, 1.0, 100.0)
    ]
    distance = [(prompt[:2] - start["prompt"]).flatten(1).norm(dim=1) for prompt in far]
    assert (distance[0] > distance[1]).all()
    assert (distance[1] > distance[2]).all()
    assert (distance[2] < 0.2 * distance[0]).all()
    assert (distance[2] > 0).all()


def test_diverging_client_is_named_and_kept(engine, start):
    broken = {"prompt": torch.full_like(start["prompt"], float("inf"))}
    done = tuned(engine, broken, clients=["bob", "cid"])
    assert list(done.result.stopped) == ["bob"], "cid has no data, so nothing of it diverges"
    assert done.result.steps == [0, 0]
    assert torch.equal(done.points[5]["prompt"][0], broken["prompt"]), "its last parameters are kept"
    assert tuned(engine, start).result.stopped == {}


def test_finetune_accepts_no_clients(engine, start):
    done = tuned(engine, start, clients=["cid"])
    assert done.result.steps == [0]
    assert torch.equal(done.result.params["prompt"][0], start["prompt"])


def test_interpolation(start):
    draw = torch.Generator().manual_seed(0)
    personal = {"prompt": torch.randn(3, *start["prompt"].shape, generator=draw)}
    assert torch.equal(SOFT_PROMPT.mix(personal, start, 1.0)["prompt"], personal["prompt"])
    assert torch.equal(SOFT_PROMPT.mix(personal, start, 0.0)["prompt"], start["prompt"].expand(3, -1, -1))
    stacked = {"prompt": start["prompt"].expand(3, -1, -1)}
    for alpha in np.linspace(0, 1, 5):
        mixed = SOFT_PROMPT.mix(personal, start, float(alpha))["prompt"]
        for client in range(3):
            expected = torch.lerp(start["prompt"], personal["prompt"][client], float(alpha))
            torch.testing.assert_close(mixed[client], expected)
        assert torch.equal(mixed, SOFT_PROMPT.mix(personal, stacked, float(alpha))["prompt"])
