"""FedAvg and FedSGD against each other, against the sequential reference, and against hand counts."""

import dataclasses

import numpy as np
import pytest
import torch
from ragged import ragged_batch, ragged_work, solve_one
from tiny import tiny_backbone, tiny_model, tiny_tokenizer

from fedprofit.algorithm.base import Context
from fedprofit.algorithm.fedavg import FedAvg
from fedprofit.algorithm.fedsgd import FedSgd
from fedprofit.backbone.engine import Engine
from fedprofit.backbone.forward import Row, plain_losses
from fedprofit.backbone.fused import fuse
from fedprofit.backbone.load import Backbone
from fedprofit.core.types import ClientWork, Example
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
    """Replace `weights` by the aggregation that has them."""
    weights = settings.pop("weights", "examples")
    return {"aggregate": (Mean(weights=weights),), **settings}


def built(settings, engine):
    """Build an algorithm whose rounds bring their own context."""
    context = Context(Vectorized(engine))
    algorithm = settings.build(context)

    def one_round(state, work):
        return algorithm.round(state, work, context.at(state.round + 1))

    return dataclasses.replace(algorithm, round=one_round)


def rounds(algorithm, start, works):
    state, reports = algorithm.init(start), []
    for work in works:
        state, report = algorithm.round(state, work)
        reports.append(report)
    return state, reports


def first_batches(work):
    return [dataclasses.replace(w, batches=w.batches[:1]) for w in work]


@pytest.mark.parametrize("weights", ["examples", "uniform"])
@pytest.mark.parametrize("server", ["sgd", "momentum", "adam"])
def test_fedavg_of_one_plain_step_is_fedsgd(engine, start, server, weights):
    shared = {"server": of_kind(server, rate=0.2), "weights": weights}
    works = [first_batches(ragged_work(number))[number % 2 :] for number in range(4)]
    ours, said = rounds(fedavg(engine, client=SGD, **shared), start, works)
    theirs, reports = rounds(fedsgd(engine, **shared), start, works)
    torch.testing.assert_close(ours.params, theirs.params, rtol=1e-4, atol=1e-5)
    assert (ours.params["prompt"] - start["prompt"]).norm() > 0.1
    assert ours.round == theirs.round == 4
    for one, other in zip(said, reports, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-4)
        assert dataclasses.replace(one, loss=0.0) == dataclasses.replace(other, loss=0.0)


def test_fedavg_of_one_client_is_local_training(backbone, engine, start):
    """With the client's optimizer begun afresh every round."""
    optimizer = Adam(rate=0.02)
    works = [[ragged_work(number)[0]] for number in range(3)]
    state, reports = rounds(fedavg(engine, client=optimizer), start, works)
    params = start
    for (work,), report in zip(works, reports, strict=True):
        params, losses = solve_one(backbone, params, work, optimizer)
        assert report.loss == pytest.approx(np.mean(losses), abs=1e-4)
    torch.testing.assert_close(state.params, params, rtol=1e-4, atol=1e-4)


def by_hand(parts, weights):
    total = torch.zeros_like(parts[0])
    for part, weight in zip(parts, weights, strict=True):
        total += part * weight / sum(weights)
    return total


@pytest.mark.parametrize("weights", ["examples", "uniform"])
def test_weights_of_fedavg(backbone, engine, start, weights):
    work = ragged_work()
    assert [w.weight for w in work] == [9, 2, 0, 6]
    optimizer = Adam(rate=0.02)
    results = [solve_one(backbone, start, w, optimizer) for w in work if w.batches]
    shares = [9, 2, 6] if weights == "examples" else [1, 1, 1]
    state, (report,) = rounds(fedavg(engine, client=optimizer, weights=weights), start, [work])
    expected = by_hand([params["prompt"] for params, _ in results], shares)
    torch.testing.assert_close(state.params["prompt"], expected, rtol=1e-5, atol=1e-5)
    losses = [torch.tensor(np.mean(losses)) for _, losses in results]
    assert report.loss == pytest.approx(by_hand(losses, shares).item(), abs=1e-5)


@pytest.mark.parametrize("weights", ["examples", "uniform"])
def test_weights_of_fedsgd(backbone, engine, start, weights):
    """Each client counts by all its examples, whatever the size of the batch."""
    work = [
        dataclasses.replace(w, weight=weight) for w, weight in zip(ragged_work(), [5, 40, 0, 1], strict=True)
    ]
    gradients = []
    for client in (work[0], work[1], work[3]):
        prompt = start["prompt"].clone().requires_grad_()
        rows = [Row(0, example) for example in client.batches[0]]
        loss = plain_losses(backbone, prompt[None], rows).sum() / sum(len(r.example.target) for r in rows)
        loss.backward()
        gradients.append(prompt.grad)
    server = PlainServer(rate=0.5)
    state, _ = rounds(fedsgd(engine, server=server, weights=weights), start, [work])
    mean = by_hand(gradients, [5, 40, 1] if weights == "examples" else [1, 1, 1])
    torch.testing.assert_close(state.params["prompt"], start["prompt"] - 0.5 * mean, rtol=1e-5, atol=1e-5)


@pytest.fixture(params=["fedavg", "fedsgd"])
def algorithm(request, engine):
    if request.param == "fedavg":
        return fedavg(engine, client=Adam(rate=0.02), weights="uniform")
    return fedsgd(engine, weights="uniform")


def test_a_client_without_data_does_not_count(algorithm, start):
    work = ragged_work()
    state, (report,) = rounds(algorithm, start, [work])
    fewer, (other,) = rounds(algorithm, start, [[w for w in work if w.batches]])
    torch.testing.assert_close(state.params, fewer.params, rtol=1e-6, atol=1e-6)
    assert report.loss == pytest.approx(other.loss, abs=1e-6)
    assert (report.clients, other.clients) == (4, 3)
    assert report.stopped == {}


@pytest.mark.parametrize("server", ["momentum", "adam", "yogi"])
def test_a_round_without_news_moves_no_server(engine, start, server):
    algorithm = fedavg(engine, client=Adam(rate=0.02), server=of_kind(server))
    idle = [ClientWork("a", (), 0)]
    before, _ = rounds(algorithm, start, [ragged_work()])
    after, _ = rounds(algorithm, start, [ragged_work(), idle])
    assert torch.equal(after.params["prompt"], before.params["prompt"])
    assert after.round == before.round + 1


def test_a_round_without_data_moves_nothing(algorithm, start):
    state, (report,) = rounds(algorithm, start, [[ClientWork("a", (), 0), ClientWork("b", (), 0)]])
    assert torch.equal(state.params["prompt"], start["prompt"])
    assert state.round == 1
    assert np.isnan(report.loss)
    assert (report.steps, report.tokens, report.bytes_up) == (0, 0, 0)


POISON = 340


@pytest.fixture(scope="module")
def poisoned():
    """A model in which one token's embedding is no number."""
    model = tiny_model("llama").requires_grad_(False).eval()
    assert not model.config.tie_word_embeddings
    model.get_input_embeddings().weight[POISON] = float("nan")
    return Backbone("poisoned", model, tiny_tokenizer(), torch.device("cpu"), torch.float32, "poisoned")


@pytest.mark.parametrize("way", ["packed", "fused"])
@pytest.mark.parametrize(("kind", "step"), [("fedavg", 0), ("fedavg", 1), ("fedsgd", 0)])
def test_a_diverging_client_is_left_out_and_named(poisoned, start, kind, step, way):
    assert way == "packed" or fuse(poisoned.model)
    engine = Engine(poisoned, way)
    make = fedavg if kind == "fedavg" else fedsgd
    settings = {"client": Adam(rate=0.02)} if kind == "fedavg" else {}
    work = ragged_work() if kind == "fedavg" else first_batches(ragged_work())
    batches = [list(batch) for batch in work[0].batches]
    bad = batches[step][-1]
    batches[step][-1] = dataclasses.replace(bad, source=np.append(bad.source, POISON).astype(np.int32))
    work[0] = dataclasses.replace(work[0], batches=batches)
    state, (report,) = rounds(make(engine, **settings), start, [work])
    expected, (clean,) = rounds(make(engine, **settings), start, [work[1:]])
    assert torch.isfinite(state.params["prompt"]).all()
    torch.testing.assert_close(state.params, expected.params, rtol=1e-6, atol=1e-6)
    assert list(report.stopped) == ["c0"]
    assert "not finite" in report.stopped["c0"]
    assert report.loss == pytest.approx(clean.loss, abs=1e-6)
    assert report.bytes_up == clean.bytes_up
    assert report.steps == clean.steps + step, "a step that was not taken is not counted"


def counted(batch):
    """Tokens that one client's batch makes a model read: each prefix once, with the prompt before it."""
    prefixes = {example.prefix.tobytes(): len(example.prefix) for example in batch}
    rows = sum(len(example.source) + len(example.target) - 1 for example in batch)
    return sum(LENGTH + size for size in prefixes.values()) + rows


def test_the_account_of_a_fixed_round(engine, start):
    """Two clients share an example text; each reads it for itself."""

    def example(prefix, source, target):
        parts = [np.arange(3, 3 + size, dtype=np.int32) for size in (prefix, source, target)]
        return Example(*parts, "task", ("",))

    a, b, c = example(5, 3, 2), example(5, 4, 1), example(0, 2, 3)
    # a and b share a prefix of 5: 4 + 5 + (3 + 1) + (4 + 0) = 17; c alone: 4 + 0 + 2 + 2 = 8.
    work = [
        ClientWork("one", [[a, b], [c]], 3),
        ClientWork("two", [[a, b, c]], 3),
        ClientWork("none", [], 0),
    ]
    _, (report,) = rounds(fedavg(engine, client=SGD), start, [work])
    size = LENGTH * 32 * 4
    assert (report.clients, report.steps, report.tokens) == (3, 3, 17 + 8 + 25)
    assert (report.bytes_down, report.bytes_up) == (3 * size, 2 * size)
    assert set(report.to_mapping()) == {
        "loss", "clients", "steps", "tokens", "bytes_down", "bytes_up", "stopped"
    }  # fmt: skip


def test_the_account_of_ragged_rounds(engine, start):
    work = ragged_work(3)
    _, (average,) = rounds(fedavg(engine, client=SGD), start, [work])
    assert average.steps == 6
    assert average.tokens == sum(counted(batch) for w in work for batch in w.batches)
    _, (gradient,) = rounds(fedsgd(engine), start, [first_batches(work)])
    assert gradient.steps == 3
    assert gradient.tokens == sum(counted(w.batches[0]) for w in work if w.batches)


def test_plans(engine):
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


def test_a_round_changes_neither_state_nor_work(algorithm, start):
    before = start["prompt"].clone()
    state = algorithm.init(start)
    work = [ClientWork("a", [ragged_batch(0, 2)], 2)]
    first, _ = algorithm.round(state, work)
    again, _ = algorithm.round(state, work)
    assert torch.equal(start["prompt"], before)
    assert torch.equal(state.params["prompt"], before)
    assert torch.equal(first.params["prompt"], again.params["prompt"])
