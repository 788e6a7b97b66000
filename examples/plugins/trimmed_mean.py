"""A trimmed mean as an aggregation step of one's own: sort each coordinate, drop both ends, average."""

from collections.abc import Sequence

from fedprofit.config.base import Count
from fedprofit.core.types import Params
from fedprofit.server.steps.base import Reducer


class MyTrimmedMean(Reducer, kind="my_trimmed_mean", paper="Yin et al. 2018, arXiv 1803.01498"):
    """Mean over clients without the largest and the smallest values of each coordinate."""

    drop: Count = 1
    """How many clients are left out at each end; fewer where the cohort is too small."""

    def reduce(self, stacked: Params, weights: Sequence[float]) -> Params:
        """Sort each coordinate over the clients, leave out both ends and average."""
        clients = len(weights)
        drop = min(self.drop, (clients - 1) // 2)
        return {
            key: tensor.sort(dim=0).values[drop : clients - drop].mean(dim=0)
            for key, tensor in stacked.items()
        }
