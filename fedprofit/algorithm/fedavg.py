"""FedAvg (McMahan et al. 2017) with a server optimizer (Reddi et al. 2021, Algorithm 1).

    each client k of the cohort:  x_k <- several steps of its optimizer from x
    server:                       d = sum_k w_k (x_k - x) / sum_k w_k;   x <- server(x, d)

The client optimizer's state is fresh every round. With a server SGD of rate 1 this is plain averaging.
"""

from collections.abc import Sequence

from fedprofit.algorithm.base import Algorithm, AlgorithmSettings, Context, WithServer, stacked
from fedprofit.core.types import ClientBatches, RoundReport, ServerState
from fedprofit.data.batching import LocalSteps
from fedprofit.local.optimizer import Adam, ClientOptimizerSettings


class FedAvg(
    LocalSteps, WithServer, AlgorithmSettings, kind="fedavg", paper="McMahan et al. 2017, arXiv 1602.05629"
):
    """Federated averaging: local steps, averaged deltas, a server optimizer."""

    client: ClientOptimizerSettings = Adam()
    """The optimizer of the local steps."""

    def build(self, context: Context) -> Algorithm:
        """Build FedAvg from its parts."""
        server = self.build_server()

        def one_round(
            state: ServerState, cohort: Sequence[ClientBatches], context: Context
        ) -> tuple[ServerState, RoundReport]:
            start = stacked(state.params, len(cohort))
            result, _ = context.solver.solve(start, cohort, self.client)
            deltas = {key: result.params[key] - start[key] for key in start}
            return server.step(state, cohort, result, deltas, context)

        return Algorithm(self.name, self.plan(), server.init, one_round)
