"""Aggregation steps, compared with plain loops, and the chain's order, bytes and errors."""

import math

import pytest
import torch

from fedprofit.algorithm.fedavg import FedAvg
from fedprofit.config.file import from_mapping
from fedprofit.core.errors import UserError
from fedprofit.server.aggregate import weighted_mean
from fedprofit.server.steps.base import AggregationStep
from fedprofit.server.steps.clip import Clip
from fedprofit.server.steps.mean import Mean
from fedprofit.server.steps.quantize import Quantize
from fedprofit.server.steps.robust import Median, TrimmedMean
from fedprofit.server.steps.top_k import TopK
from fedprofit.server.store import ClientStore
from fedprofit.server.update import Chain

NAMES = ["ann", "bob", "cat", "dan", "eve"]
COUNTS = [4.0, 1.0, 0.0, 2.0, 9.0]  # cat returned nothing


def updates(seed=0, clients=5):
    generator = torch.Generator().manual_seed(seed)
    found = {
        "prompt": torch.randn(clients, 3, 4, generator=generator),
        "bias": torch.randn(clients, 7, generator=generator),
    }
    found["prompt"][2] = float("nan")
    return found


def aggregate(*steps, params=None, store=None, round=1, seed=0):
    params = updates() if params is None else params
    return Chain(steps).update(params, NAMES, COUNTS, {}, seed, round, store or ClientStore())


def counted(tensor):
    return [row.flatten().tolist() for row, count in zip(tensor, COUNTS, strict=True) if count]


def test_mean_equals_the_plain_weighted_mean():
    found = aggregate(Mean())
    assert all(torch.equal(found.delta[k], weighted_mean(updates(), COUNTS)[k]) for k in found.delta)
    uniform = aggregate(Mean(weights="uniform")).delta["bias"].tolist()
    columns = zip(*counted(updates()["bias"]), strict=True)
    assert uniform == pytest.approx([math.fsum(column) / 4 for column in columns], rel=1e-6)


@pytest.mark.parametrize(
    ("step", "reduced"),
    [
        (Median(), lambda column: (column[1] + column[2]) / 2),
        (TrimmedMean(share=0.25), lambda column: (column[1] + column[2]) / 2),
        (TrimmedMean(share=0.2), lambda column: math.fsum(column) / 4),
        (TrimmedMean(share=0.0), lambda column: math.fsum(column) / 4),
    ],
)
def test_robust_steps_match_sorted_columns(step, reduced):
    found = aggregate(step).delta
    for key, tensor in updates().items():
        columns = [sorted(column) for column in zip(*counted(tensor), strict=True)]
        expected = [reduced(column) for column in columns]
        assert found[key].flatten().tolist() == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_median_of_odd_clients_ignores_an_outlier():
    params = {"p": torch.tensor([[1.0], [1e9], [0.0], [2.0], [3.0]])}
    chain = Chain((Median(),))
    found = chain.update(params, NAMES, [1, 1, 1, 1, 1], {}, 0, 1, ClientStore())
    assert found.delta["p"].tolist() == [2.0]


def test_clip_bounds_the_norm_over_all_tensors():
    params = {"a": torch.tensor([[3.0], [0.3], [0.0], [0.0], [0.0]]), "b": torch.zeros(5, 2)}
    params["b"][0] = torch.tensor([0.0, 4.0])
    found = Chain((Clip(norm=1.0), Mean(weights="uniform"))).update(
        params, NAMES, [1, 1, 0, 0, 0], {}, 0, 1, ClientStore()
    )
    assert found.delta["a"].tolist() == pytest.approx([(0.6 + 0.3) / 2])
    assert found.delta["b"].tolist() == pytest.approx([0.0, 0.4])


def test_clip_above_all_norms_changes_no_bits():
    found, plain = aggregate(Clip(norm=1e6), Mean()), aggregate(Mean())
    assert all(torch.equal(found.delta[key], plain.delta[key]) for key in plain.delta)


def test_quantize_is_unbiased_and_on_the_levels():
    row = torch.linspace(-1, 1, 21).repeat(5, 1)
    row[:, 10] = 0.0
    draws = []
    for round in range(1, 401):
        chain = Chain((Quantize(), Mean()))
        draws.append(chain.update({"p": row}, NAMES, [1, 0, 0, 0, 0], {}, 0, round, ClientStore()).delta["p"])
    levels = torch.stack(draws) * 127
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert len({tuple(draw.tolist()) for draw in draws}) > 100, "rounds draw differently"
    # A level is 1 / 127 wide; the mean of 400 draws is off by at most a fifth of that, five deviations.
    torch.testing.assert_close(torch.stack(draws).mean(0), row[0], rtol=0, atol=1 / 127 / 5)
    assert all(draw[10] == 0 for draw in draws)


def test_quantize_draws_by_seed_round_and_client():
    first = aggregate(Quantize(), Mean())
    assert torch.equal(first.delta["bias"], aggregate(Quantize(), Mean()).delta["bias"])
    assert not torch.equal(first.delta["bias"], aggregate(Quantize(), Mean(), seed=1).delta["bias"])
    assert not torch.equal(first.delta["bias"], aggregate(Quantize(), Mean(), round=2).delta["bias"])


def test_top_k_with_feedback_matches_plain_loop():
    chain, store = Chain((TopK(share=0.25), Mean(weights="uniform"))), ClientStore()
    errors = {name: [0.0] * 8 for name in NAMES}
    for round in (1, 2, 3):
        rows = torch.randn(5, 8, generator=torch.Generator().manual_seed(round))
        found = chain.update({"p": rows}, NAMES, COUNTS, {}, 0, round, store).delta["p"].tolist()
        total = [0.0] * 8
        for name, count, row in zip(NAMES, COUNTS, rows.tolist(), strict=True):
            if not count:
                continue
            sums = [new + old for new, old in zip(row, errors[name], strict=True)]
            largest = sorted(range(8), key=lambda i: -abs(sums[i]))[:2]
            errors[name] = [0.0 if i in largest else value for i, value in enumerate(sums)]
            total = [t + (sums[i] if i in largest else 0.0) / 4 for i, t in enumerate(total)]
        assert found == pytest.approx(total, abs=1e-6)
    assert store.within("aggregate.0.top_k").has("error", NAMES) == [True, True, False, True, True]


@pytest.mark.parametrize(
    ("steps", "each"),
    [
        ((Mean(),), 19 * 4),
        ((Clip(), Median()), 19 * 4),
        ((Quantize(), Mean()), 19 + 2 * 4),
        ((TopK(share=0.25), Mean()), (3 + 2) * (4 + 4)),
        ((TopK(share=0.25), Quantize(), Mean()), (3 + 2) * (1 + 4) + 2 * 4),
    ],
)
def test_bytes_are_those_that_clients_send(steps, each):
    assert aggregate(*steps).bytes_up == 4 * each, "of the four clients that returned something"


def test_top_k_then_quantize_stays_sparse():
    found = []

    class Seen(AggregationStep):
        def update(self, sent, state, context):
            found.append(sent.params["bias"])
            return sent, state

    aggregate(TopK(share=0.25), Quantize(), Seen(), Mean())
    assert all((row != 0).sum() <= 2 for row in found[0])


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ([], "no step turns the clients' updates into one"),
        (["clip", "top_k"], "no step turns the clients' updates into one (clip, top_k)"),
        (["mean", "median"], "several steps turn the clients' updates into one (mean, median); keep one"),
        (["mean", "clip"], "clip works on clients and cannot follow mean; put it before"),
    ],
)
def test_chain_order_is_checked_with_the_configuration(kinds, said):
    algorithm = {"kind": "fedavg", "steps": 1, "aggregate": [{"kind": kind} for kind in kinds]}
    with pytest.raises(UserError) as caught:
        from_mapping(
            {
                "name": "demo",
                "data": {"source": {"kind": "lexicon"}},
                "training": {"algorithms": [algorithm]},
            }
        )
    assert "training.algorithms.0.aggregate" in str(caught.value)
    assert said in str(caught.value)


def test_unknown_step_suggests_nearest_name():
    with pytest.raises(UserError, match=r"there is no aggregation step 'meen'.*did you mean 'mean'"):
        from_mapping(
            {
                "name": "demo",
                "data": {"source": {"kind": "lexicon"}},
                "training": {"algorithms": [{"kind": "fedavg", "steps": 1, "aggregate": [{"kind": "meen"}]}]},
            }
        )
    assert FedAvg(steps=1).aggregate == (Mean(),)


class Broken(Mean):
    """Returns invalid values."""

    def update(self, sent, state, context):
        from dataclasses import replace

        sent, state = super().update(sent, state, context)
        return replace(sent, params=self.change(sent.params)), state

    def change(self, params):
        return {key: tensor[None] for key, tensor in params.items()}


class Infinite(Broken):
    def change(self, params):
        return {key: tensor / 0 for key, tensor in params.items()}


class Amplified(AggregationStep):
    def update(self, sent, state, context):
        from dataclasses import replace

        params = {key: tensor.clone() for key, tensor in sent.params.items()}
        params["bias"][3] = float("nan")
        return replace(sent, params=params), state


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((Broken(),), r"aggregation step '.*': round 7: returned tensors .*expected"),
        ((Infinite(),), r"aggregation step '.*': round 7: tensor 'prompt' is not finite"),
        ((Amplified(), Mean()), r"round 7: tensor 'bias' of client 'dan' is not finite"),
    ],
)
def test_step_that_returns_wrong_tensors_is_named(steps, said):
    with pytest.raises(UserError, match=said):
        aggregate(*steps, round=7)
