"""Means that a few wrong clients cannot move far (Yin et al. 2018): by coordinate, all clients alike."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from fedprofit.core.types import Params
from fedprofit.server.steps.base import Reducer

PAPER = "Yin et al. 2018, arXiv 1803.01498"


class Median(Reducer, kind="median", paper=PAPER):
    """Median over clients, coordinate by coordinate."""

    def reduce(self, stacked: Params, weights: Sequence[float]) -> Params:
        """Return the middle value, or the mean of the two in the middle."""
        low, high = (len(weights) - 1) // 2, len(weights) // 2
        ordered = {key: tensor.double().sort(dim=0).values for key, tensor in stacked.items()}
        return {key: ((t[low] + t[high]) / 2).to(stacked[key].dtype) for key, t in ordered.items()}


class TrimmedMean(Reducer, kind="trimmed_mean", paper=PAPER):
    """Mean over clients without the largest and the smallest values, coordinate by coordinate."""

    share: Annotated[float, Field(ge=0, lt=0.5, allow_inf_nan=False)] = 0.1
    """The share of the clients left out at each end, rounded down to an integer number of clients."""

    def reduce(self, stacked: Params, weights: Sequence[float]) -> Params:
        """Sort each coordinate, cut both ends and average."""
        out = int(self.share * len(weights))
        return {
            key: tensor.double().sort(dim=0).values[out : len(weights) - out].mean(dim=0).to(tensor.dtype)
            for key, tensor in stacked.items()
        }
