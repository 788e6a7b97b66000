"""The weighted mean, compared with a plain loop over Python numbers."""

import math

import pytest
import torch

from fedprofit.server.aggregate import weighted_mean


def by_hand(tensor, weights):
    """Exactly rounded sums, one number at a time."""
    total = math.fsum(weights)
    flat = tensor.double().reshape(len(weights), -1).tolist()
    return [
        math.fsum(w * row[i] for w, row in zip(weights, flat, strict=True) if w) / total
        for i in range(len(flat[0]))
    ]


@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [3, 1, 0, 5], [0.1, 0.7, 1e-9, 12.0], [0, 0, 0, 2]])
@pytest.mark.parametrize("shape", [(), (5,), (3, 2)])
def test_weighted_mean_matches_plain_loop(weights, shape):
    stacked = {
        "prompt": torch.randn(4, *shape, generator=torch.Generator().manual_seed(0)),
        "other": torch.randn(4, 2, generator=torch.Generator().manual_seed(1)),
    }
    means = weighted_mean(stacked, weights)
    assert means.keys() == stacked.keys()
    for key, tensor in stacked.items():
        assert means[key].shape == tensor.shape[1:]
        assert means[key].dtype == torch.float32
        expected = torch.tensor(by_hand(tensor, weights), dtype=torch.float32).reshape(tensor.shape[1:])
        torch.testing.assert_close(means[key], expected, rtol=1e-7, atol=1e-12)


def test_weighted_mean_keeps_many_small_numbers():
    """Sums of a million clients in float32 would lose the small numbers next to the large one."""
    values = torch.full((1_000_001, 1), 1e-4)
    values[0] = 1e4
    exact = math.fsum(values.double().flatten().tolist()) / len(values)
    assert weighted_mean({"p": values}, [1] * len(values))["p"].item() == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weighted_mean_ignores_nan_of_weight_zero(bad):
    stacked = {"prompt": torch.tensor([[1.0, 2.0], [bad, bad], [3.0, 6.0]])}
    assert weighted_mean(stacked, [1, 0, 1])["prompt"].tolist() == [2.0, 4.0]
    assert weighted_mean(stacked, [0, 0, 0])["prompt"].tolist() == [0.0, 0.0]


def test_weighted_mean_propagates_nan_of_positive_weight():
    assert weighted_mean({"p": torch.tensor([[1.0], [float("nan")]])}, [1, 1])["p"].isnan().all()
