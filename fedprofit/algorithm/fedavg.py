"""FedAvg (McMahan et al. 2017) with a server optimizer (Reddi et al. 2021, Algorithm 1).

    each client k of the cohort:  x_k <- several steps of its optimizer from x
    server:                       d = sum_k w_k (x_k - x) / sum_k w_k;   x <- server(x, d)

The client optimizer's state is fresh every round. With a server SGD of rate 1 this is plain averaging.
"""

from collections.abc import Sequence
from typing import Literal

from fedprofit.algorithm.base import (
    Algorithm,
    AlgorithmSettings,
    Context,
    effective_weights,
    next_state,
    report,
)
from fedprofit.core.types import ClientWork, RoundReport, ServerState
from fedprofit.data.batching import LocalSteps
from fedprofit.local.optimizer import Adam, ClientOptimizerSettings
from fedprofit.server.optimizer import PlainServer, ServerOptimizerSettings


class FedAvg(LocalSteps, AlgorithmSettings, kind="fedavg", paper="McMahan et al. 2017, arXiv 1602.05629"):
    """Federated averaging: local steps, averaged deltas, a server optimizer."""

    client: ClientOptimizerSettings = Adam()
    """The optimizer of the local steps."""
    server: ServerOptimizerSettings = PlainServer()
    """The optimizer that applies the averaged delta."""
    weights: Literal["examples", "uniform"] = "examples"
    """Whether clients count by their examples or all the same."""

    def build(self, context: Context) -> Algorithm:
        """Build FedAvg from its parts."""
        server = self.server.build()

        def one_round(state: ServerState, work: Sequence[ClientWork]) -> tuple[ServerState, RoundReport]:
            start = {key: tensor.expand(len(work), *tensor.shape) for key, tensor in state.params.items()}
            result, _ = context.solver.solve(start, work, self.client)
            weights = effective_weights(work, result, self.weights == "uniform")
            deltas = {key: result.params[key] - start[key] for key in start}
            summary = report(work, result, weights, state.params)
            return next_state(server, state, deltas, weights), summary

        return Algorithm(self.name, self.plan(), server.init, one_round)
