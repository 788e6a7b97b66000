"""The weighted mean of the clients' updates."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from fedprofit.core.types import Params
from fedprofit.server.steps.base import Reducer, Sent, StepContext


class Mean(Reducer, kind="mean", paper="McMahan et al. 2017, arXiv 1602.05629"):
    """Mean over clients, weighted by examples or uniformly."""

    weights: Literal["examples", "uniform"] = "examples"
    """Whether a client's weight is its number of examples or the same for all."""

    def weigh(self, examples: Sequence[float]) -> list[float]:
        """Return the numbers of examples, or 1 for each client that returned something."""
        return super().weigh(examples) if self.weights == "uniform" else list(examples)

    def update(self, sent: Sent, state: Params, context: StepContext) -> tuple[Sent, Params]:
        """Average in float64, in the order of the cohort; clients that returned nothing have weight 0."""
        from fedprofit.server.aggregate import weighted_mean

        return replace(sent, params=weighted_mean(sent.params, self.weigh(sent.examples))), state
