"""FedAvg and FedSGD, compared with each other, the sequential reference and counts by hand."""

import dataclasses

import numpy as np
import pytest
import torch
from ragged import ragged_batch, ragged_cohort, solve_one
from tiny import tiny_backbone, tiny_model, tiny_tokenizer

from fedprofit.algorithm.base import Context
from fedprofit.algorithm.fedavg import FedAvg
from fedprofit.algorithm.fedsgd import FedSgd
from fedprofit.backbone.engine import Engine
from fedprofit.backbone.forward import Row, plain_losses
from fedprofit.backbone.fused import fuse
from fedprofit.backbone.load import Backbone
from fedprofit.core.types import ClientBatches, Example
from fedprofit.local.optimizer import Adam, Sgd
from fedprofit.local.solver import Vectorized
from fedprofit.server.optimizer import PlainServer, ServerOptimizerSettings
from fedprofit.server.steps.mean import Mean

LENGTH = 4
SGD = Sgd(rate=1.0)


def of_kind(kind, **settings):
    adaptive = {"tau": 0.1} if settings and kind not in ("sgd", "momentum") else {}
    return ServerOptimizerSettings.model_validate({"kind": kind, **settings, **adaptive})


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone("llama")


@pytest.fixture(scope="module")
def engine(backbone):
    return Engine(backbone, "packed")


@pytest.fixture(scope="module")
def start(backbone):
    generator = torch.Generator().manual_seed(7)
    return {"prompt": torch.randn(LENGTH, backbone.width, generator=generator) * 0.3}


def fedavg(engine, **settings):
    return built(FedAvg(name="avg", steps=1, **with_weights(settings)), engine)


def fedsgd(engine, **settings):
    return built(FedSgd(name="sgd", **with_weights(settings)), engine)


def with_weights(settings):
    """Replace `weights` by the aggregation with these weights."""
    weights = settings.pop("weights", "examples")
    return {"aggregate": (Mean(weights=weights),), **settings}


def built(settings, engine):
    """Build an algorithm whose rounds need no context."""
    context = Context(Vectorized(engine))
    algorithm = settings.build(context)

    def one_round(state, cohort):
        return algorithm.round(state, cohort, context.at(state.round + 1))

    return dataclasses.replace(algorithm, round=one_round)


def rounds(algorithm, start, by_round):
    state, reports = algorithm.init(start), []
    for cohort in by_round:
        state, report = algorithm.round(state, cohort)
        reports.append(report)
    return state, reports


def first_batches(cohort):
    return [dataclasses.replace(w, batches=w.batches[:1]) for w in cohort]


@pytest.mark.parametrize("weights", ["examples", "uniform"])
@pytest.mark.parametrize("server", ["sgd", "momentum", "adam"])
def test_fedavg_of_one_plain_step_is_fedsgd(engine, start, server, weights):
    shared = {"server": of_kind(server, rate=0.2), "weights": weights}
    by_round = [first_batches(ragged_cohort(number))[number % 2 :] for number in range(4)]
    ours, said = rounds(fedavg(engine, client=SGD, **shared), start, by_round)
    theirs, reports = rounds(fedsgd(engine, **shared), start, by_round)
    torch.testing.assert_close(ours.params, theirs.params, rtol=1e-4, atol=1e-5)
    assert (ours.params["prompt"] - start["prompt"]).norm() > 0.1
    assert ours.round == theirs.round == 4
    for one, other in zip(said, reports, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-4)
        assert dataclasses.replace(one, loss=0.0) == dataclasses.replace(other, loss=0.0)


def test_fedavg_of_one_client_is_local_training(backbone, engine, start):
    """The client's optimizer state starts fresh every round."""
    optimizer = Adam(rate=0.02)
    by_round = [[ragged_cohort(number)[0]] for number in range(3)]
    state, reports = rounds(fedavg(engine, client=optimizer), start, by_round)
    params = start
    for (one,), report in zip(by_round, reports, strict=True):
        params, losses = solve_one(backbone, params, one, optimizer)
        assert report.loss == pytest.approx(np.mean(losses), abs=1e-4)
    torch.testing.assert_close(state.params, params, rtol=1e-4, atol=1e-4)


def by_hand(parts, weights):
    total = torch.zeros_like(parts[0])
    for part, weight in zip(parts, weights, strict=True):
        total += part * weight / sum(weights)
    return total


@pytest.mark.parametrize("weights", ["examples", "uniform"])
def test_weights_of_fedavg(backbone, engine, start, weights):
    cohort = ragged_cohort()
    assert [w.weight for w in cohort] == [9, 2, 0, 6]
    optimizer = Adam(rate=0.02)
    results = [solve_one(backbone, start, w, optimizer) for w in cohort if w.batches]
    shares = [9, 2, 6] if weights == "examples" else [1, 1, 1]
    state, (report,) = rounds(fedavg(engine, client=optimizer, weights=weights), start, [cohort])
    expected = by_hand([params["prompt"] for params, _ in results], shares)
    torch.testing.assert_close(state.params["prompt"], expected, rtol=1e-5, atol=1e-5)
    losses = [torch.tensor(np.mean(losses)) for _, losses in results]
    assert report.loss == pytest.approx(by_hand(losses, shares).item(), abs=1e-5)


@pytest.mark.parametrize("weights", ["examples", "uniform"])
def test_weights_of_fedsgd(backbone, engine, start, weights):
    """Each client is weighted by all its examples, independent of the batch size."""
    cohort = [
        dataclasses.replace(w, weight=weight)
        for w, weight in zip(ragged_cohort(), [5, 40, 0, 1], strict=True)
    ]
    gradients = []
    for client in (cohort[0], cohort[1], cohort[3]):
        prompt = start["prompt"].clone().requires_grad_()
        rows = [Row(0, example) for example in client.batches[0]]
        loss = plain_losses(backbone, prompt[None], rows).sum() / sum(len(r.example.target) for r in rows)
        loss.backward()
        gradients.append(prompt.grad)
    server = PlainServer(rate=0.5)
    state, _ = rounds(fedsgd(engine, server=server, weights=weights), start, [cohort])
    mean = by_hand(gradients, [5, 40, 1] if weights == "examples" else [1, 1, 1])
    torch.testing.assert_close(state.params["prompt"], start["prompt"] - 0.5 * mean, rtol=1e-5, atol=1e-5)


@pytest.fixture(params=["fedavg", "fedsgd"])
def algorithm(request, engine):
    if request.param == "fedavg":
        return fedavg(engine, client=Adam(rate=0.02), weights="uniform")
    return fedsgd(engine, weights="uniform")


def test_client_without_data_does_not_count(algorithm, start):
    cohort = ragged_cohort()
    state, (report,) = rounds(algorithm, start, [cohort])
    fewer, (other,) = rounds(algorithm, start, [[w for w in cohort if w.batches]])
    torch.testing.assert_close(state.params, fewer.params, rtol=1e-6, atol=1e-6)
    assert report.loss == pytest.approx(other.loss, abs=1e-6)
    assert (report.clients, other.clients) == (4, 3)
    assert report.stopped == {}


@pytest.mark.parametrize("server", ["momentum", "adam", "yogi"])
def test_round_with_zero_update_changes_no_server(engine, start, server):
    algorithm = fedavg(engine, client=Adam(rate=0.02), server=of_kind(server))
    idle = [ClientBatches("a", (), 0)]
    before, _ = rounds(algorithm, start, [ragged_cohort()])
    after, _ = rounds(algorithm, start, [ragged_cohort(), idle])
    assert torch.equal(after.params["prompt"], before.params["prompt"])
    assert after.round == before.round + 1


def test_round_without_data_changes_nothing(algorithm, start):
    state, (report,) = rounds(algorithm, start, [[ClientBatches("a", (), 0), ClientBatches("b", (), 0)]])
    assert torch.equal(state.params["prompt"], start["prompt"])
    assert state.round == 1
    assert np.isnan(report.loss)
    assert (report.steps, report.tokens, report.bytes_up) == (0, 0, 0)


POISON = 340


@pytest.fixture(scope="module")
def poisoned():
    """A model in which one token's embedding is NaN."""
    model = tiny_model("llama").requires_grad_(False).eval()
    assert not model.config.tie_word_embeddings
    model.get_input_embeddings().weight[POISON] = float("nan")
    return Backbone("poisoned", model, tiny_tokenizer(), torch.device("cpu"), torch.float32, "poisoned")


@pytest.mark.parametrize("path", ["packed", "fused"])
@pytest.mark.parametrize(("kind", "step"), [("fedavg", 0), ("fedavg", 1), ("fedsgd", 0)])
def test_diverging_client_is_excluded_and_named(poisoned, start, kind, step, path):
    assert path == "packed" or fuse(poisoned.model)
    engine = Engine(poisoned, path)
    make = fedavg if kind == "fedavg" else fedsgd
    settings = {"client": Adam(rate=0.02)} if kind == "fedavg" else {}
    cohort = ragged_cohort() if kind == "fedavg" else first_batches(ragged_cohort())
    batches = [list(batch) for batch in cohort[0].batches]
    bad = batches[step][-1]
    batches[step][-1] = dataclasses.replace(bad, source=np.append(bad.source, POISON).astype(np.int32))
    cohort[0] = dataclasses.replace(cohort[0], batches=batches)
    state, (report,) = rounds(make(engine, **settings), start, [cohort])
    expected, (clean,) = rounds(make(engine, **settings), start, [cohort[1:]])
    assert torch.isfinite(state.params["prompt"]).all()
    torch.testing.assert_close(state.params, expected.params, rtol=1e-6, atol=1e-6)
    assert list(report.stopped) == ["c0"]
    assert "not finite" in report.stopped["c0"]
    assert report.loss == pytest.approx(clean.loss, abs=1e-6)
    assert report.bytes_up == clean.bytes_up
    assert report.steps == clean.steps + step, "a step that was not taken is not counted"


def counted(batch):
    """Count the tokens that a model reads for one client's batch: each prefix once, after the prompt."""
    prefixes = {example.prefix.tobytes(): len(example.prefix) for example in batch}
    rows = sum(len(example.source) + len(example.target) - 1 for example in batch)
    return sum(LENGTH + size for size in prefixes.values()) + rows


def test_report_of_fixed_round_is_exact(engine, start):
    """Two clients share an example text; each reads it separately."""

    def example(prefix, source, target):
        parts = [np.arange(3, 3 + size, dtype=np.int32) for size in (prefix, source, target)]
        return Example(*parts, "task", ("",))

    a, b, c = example(5, 3, 2), example(5, 4, 1), example(0, 2, 3)
    # a and b share a prefix of 5: 4 + 5 + (3 + 1) + (4 + 0) = 17; c: 4 + 0 + 2 + 2 = 8.
    cohort = [
        ClientBatches("one", [[a, b], [c]], 3),
        ClientBatches("two", [[a, b, c]], 3),
        ClientBatches("none", [], 0),
    ]
    _, (report,) = rounds(fedavg(engine, client=SGD), start, [cohort])
    size = LENGTH * 32 * 4
    assert (report.clients, report.steps, report.tokens) == (3, 3, 17 + 8 + 25)
    assert (report.bytes_down, report.bytes_up) == (3 * size, 2 * size)
    assert set(report.to_mapping()) == {
        "loss", "clients", "steps", "tokens", "bytes_down", "bytes_up", "stopped"
    }  # fmt: skip


def test_report_of_ragged_rounds_is_exact(engine, start):
    cohort = ragged_cohort(3)
    _, (average,) = rounds(fedavg(engine, client=SGD), start, [cohort])
    assert average.steps == 6
    assert average.tokens == sum(counted(batch) for w in cohort for batch in w.batches)
    _, (gradient,) = rounds(fedsgd(engine), start, [first_batches(cohort)])
    assert gradient.steps == 3
    assert gradient.tokens == sum(counted(w.batches[0]) for w in cohort if w.batches)


def test_plans_give_expected_batches(engine):
    draw = np.random.default_rng
    (batch,) = fedsgd(engine, batch_size="full").plan(7, draw(0))
    assert sorted(batch) == list(range(7))
    (batch,) = fedsgd(engine, batch_size=3).plan(7, draw(0))
    assert len(set(batch)) == 3
    assert fedsgd(engine, batch_size=3).plan(0, draw(0)) == []
    epochs = FedAvg(name="e", epochs=2, batch_size=3).build(Context(Vectorized(engine))).plan(7, draw(0))
    assert [len(batch) for batch in epochs] == [3, 3, 1, 3, 3, 1]
    for epoch in (epochs[:3], epochs[3:]):
        assert sorted(position for batch in epoch for position in batch) == list(range(7))
    assert epochs[:3] != epochs[3:], "each epoch has an order of its own"


def test_round_changes_neither_state_nor_cohort(algorithm, start):
    before = start["prompt"].clone()
    state = algorithm.init(start)
    cohort = [ClientBatches("a", [ragged_batch(0, 2)], 2)]
    first, _ = algorithm.round(state, cohort)
    again, _ = algorithm.round(state, cohort)
    assert torch.equal(start["prompt"], before)
    assert torch.equal(state.params["prompt"], before)
    assert torch.equal(first.params["prompt"], again.params["prompt"])
