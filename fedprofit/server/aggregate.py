"""The weighted mean that all algorithms use."""

from collections.abc import Sequence

import torch

from fedprofit.core.types import Params


def weighted_mean(stacked: Params, weights: Sequence[float]) -> Params:
    """Average stacked parameters over clients: `[clients, ...]` to `[...]`.

    Sums in float64, in client order. Clients of weight 0 (no data, or stopped) do not count, even if
    their numbers are NaN; if all weights are 0, the mean is zero.

    >>> weighted_mean({"prompt": torch.tensor([[1.0], [5.0]])}, [3, 1])
    {'prompt': tensor([2.])}
    """
    total = sum(weights)
    means: Params = {}
    for key, tensor in stacked.items():
        share = torch.tensor(weights, dtype=torch.float64, device=tensor.device) / (total or 1.0)
        counted = torch.where(share.reshape(-1, *[1] * (tensor.dim() - 1)) > 0, tensor.double(), 0.0)
        means[key] = torch.einsum("c,c...->...", share, counted).to(tensor.dtype)
    return means
