"""SCAFFOLD, Ditto and the trimmed mean of examples/plugins, compared with plain loops over clients."""

import pytest
import torch
from examples_plugins import load_examples
from ragged import ragged_cohort
from tiny import tiny_backbone

from fedprofit.algorithm.base import AlgorithmSettings, Context
from fedprofit.algorithm.fedavg import FedAvg
from fedprofit.backbone.engine import Engine
from fedprofit.backbone.forward import Row, plain_losses
from fedprofit.local.optimizer import Sgd
from fedprofit.local.solver import Vectorized
from fedprofit.server.steps.base import AggregationStep
from fedprofit.server.steps.mean import Mean

RATE, WEIGHT, POPULATION = 0.1, 0.5, 10
COHORTS = [[0, 1, 2, 3], [1, 3], [0, 2, 3]]  # of the four ragged clients; client 2 has no data


@pytest.fixture(scope="module")
def backbone():
    load_examples()
    return tiny_backbone("llama")


@pytest.fixture(scope="module")
def start(backbone):
    return torch.randn(4, backbone.width, generator=torch.Generator().manual_seed(7)) * 0.3


def algorithm_of(**settings):
    return AlgorithmSettings.model_validate({"epochs": 1, **settings})


def rounds(backbone, settings, start):
    """Run the three rounds; return the states and the reports."""
    context = Context(Vectorized(Engine(backbone, "packed")), seed=0, population=POPULATION)
    algorithm = settings.build(context)
    state, states, reports = algorithm.init({"prompt": start}), [], []
    for number, cohort in enumerate(COHORTS, 1):
        drawn = [ragged_cohort(number)[k] for k in cohort]
        state, report = algorithm.round(state, drawn, context.at(number))
        states.append(state)
        reports.append(report)
    return algorithm, context, states, reports


def slope(backbone, prompt, batch):
    leaf = prompt.clone().requires_grad_()
    tokens = sum(len(example.target) for example in batch)
    (plain_losses(backbone, leaf[None], [Row(0, example) for example in batch]).sum() / tokens).backward()
    return leaf.grad


def test_scaffold_equals_a_plain_loop(backbone, start):
    _, context, states, reports = rounds(backbone, algorithm_of(kind="scaffold", rate=RATE), start)
    x, c, own = start, torch.zeros_like(start), [torch.zeros_like(start) for _ in range(4)]
    for number, (cohort, state) in enumerate(zip(COHORTS, states, strict=True), 1):
        moves, changes = [], []
        for k in cohort:
            batches = ragged_cohort(number)[k].batches
            if not batches:
                continue
            y = x
            for batch in batches:
                y = y - RATE * (slope(backbone, y, batch) - own[k] + c)
            after = own[k] - c + (x - y) / (len(batches) * RATE)
            moves.append(y - x)
            changes.append(after - own[k])
            own[k] = after
        x = x + torch.stack(moves).mean(0)
        c = c + len(moves) / POPULATION * torch.stack(changes).mean(0)
        torch.testing.assert_close(state.params["prompt"], x, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(state.extra["control"]["prompt"], c, rtol=1e-4, atol=1e-5)
    kept = context.clients.get("control", ["c0", "c1", "c2", "c3"], {"prompt": torch.zeros_like(start)})
    torch.testing.assert_close(kept["prompt"], torch.stack(own), rtol=1e-4, atol=1e-5)
    assert context.clients.has("control", ["c0", "c1", "c2", "c3"]) == [True, True, False, True]
    size = 2 * start.numel() * 4  # parameters and control variates
    assert [one.bytes_down for one in reports] == [4 * size, 2 * size, 3 * size]
    assert [one.bytes_up for one in reports] == [3 * size, 2 * size, 2 * size]


def test_first_round_of_scaffold_is_fedavg(backbone, start):
    plain = FedAvg(epochs=1, client=Sgd(rate=RATE), aggregate=(Mean(weights="uniform"),))
    _, _, ours, _ = rounds(backbone, algorithm_of(kind="scaffold", rate=RATE), start)
    _, _, theirs, _ = rounds(backbone, plain, start)
    assert torch.equal(ours[0].params["prompt"], theirs[0].params["prompt"])
    assert not torch.allclose(ours[1].params["prompt"], theirs[1].params["prompt"], atol=1e-4)


def test_ditto_equals_fedavg_beside_plain_personal_loops(backbone, start):
    client = Sgd(rate=RATE)
    settings = algorithm_of(kind="ditto", client={"kind": "sgd", "rate": RATE}, weight=WEIGHT)
    algorithm, context, states, reports = rounds(backbone, settings, start)
    _, _, plain, costs = rounds(backbone, FedAvg(epochs=1, client=client), start)
    assert torch.equal(states[-1].params["prompt"], plain[-1].params["prompt"])
    assert [one.bytes_up for one in reports] == [one.bytes_up for one in costs]
    own, before = {}, start
    for number, (cohort, state) in enumerate(zip(COHORTS, states, strict=True), 1):
        for k in cohort:
            batches = ragged_cohort(number)[k].batches
            if batches:
                own[k] = tuned(backbone, own.get(k, before), before, batches)
        before = state.params["prompt"]
    drawn = ragged_cohort(9)
    found = algorithm.personal(states[-1], drawn, context.at(3))["prompt"]
    for k in (0, 1, 3):
        torch.testing.assert_close(found[k], own[k], rtol=1e-4, atol=1e-5)
    assert torch.equal(found[2], before), "untouched and without data"


def test_ditto_tunes_new_clients_from_federated_parameters(backbone, start):
    settings = algorithm_of(kind="ditto", client={"kind": "sgd", "rate": RATE}, weight=WEIGHT)
    context = Context(Vectorized(Engine(backbone, "packed")))
    algorithm = settings.build(context)
    drawn = ragged_cohort(9)
    found = algorithm.personal(algorithm.init({"prompt": start}), drawn, context)["prompt"]
    for k in range(4):
        expected = tuned(backbone, start, start, drawn[k].batches)
        torch.testing.assert_close(found[k], expected, rtol=1e-4, atol=1e-5)
    assert context.clients.has("personal", ["c0"]) == [False], "scoring leaves no state"


def tuned(backbone, personal, federated, batches):
    for batch in batches:
        gradient = slope(backbone, personal, batch)
        personal = personal - RATE * (gradient + WEIGHT * (personal - federated))
    return personal


@pytest.mark.parametrize(("clients", "drop"), [(5, 1), (2, 0), (3, 1)])
def test_example_trimmed_mean_drops_both_ends(backbone, clients, drop):
    step = AggregationStep.model_validate({"kind": "my_trimmed_mean", "drop": 1})
    values = torch.randn(clients, 6, generator=torch.Generator().manual_seed(0))
    found = step.reduce({"p": values}, [1.0] * clients)["p"].tolist()
    columns = [sorted(column)[drop : clients - drop] for column in zip(*values.tolist(), strict=True)]
    assert found == pytest.approx([sum(column) / len(column) for column in columns], rel=1e-5)


@pytest.mark.parametrize("weights", ["examples", "uniform"])
def test_fedavg_with_mean_matches_bits_of_loop(backbone, start, weights):
    """Local steps, a float64 mean of the deltas in the order of the cohort, added to the parameters."""
    client = Sgd(rate=RATE)
    settings = FedAvg(epochs=1, client=client, aggregate=(Mean(weights=weights),))
    _, _, states, _ = rounds(backbone, settings, start)
    x, solver = start, Vectorized(Engine(backbone, "packed"))
    for number, (cohort, state) in enumerate(zip(COHORTS, states, strict=True), 1):
        drawn = [ragged_cohort(number)[k] for k in cohort]
        result, _ = solver.solve({"prompt": x.expand(len(drawn), *x.shape)}, drawn, client)
        counts = [float(len(w.batches) > 0) if weights == "uniform" else float(w.weight) for w in drawn]
        shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
        deltas = (result.params["prompt"] - x).double()
        x = x + 1.0 * torch.einsum("c,c...->...", shares, deltas).to(x.dtype)
        assert torch.equal(state.params["prompt"], x)
