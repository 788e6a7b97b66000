"""FedSGD (McMahan et al. 2017): one gradient per client and round.

    each client k of the cohort:  g_k = gradient of its loss at x, on one batch or on all its data
    server:                       d = - sum_k w_k g_k / sum_k w_k;   x <- server(x, d)

It equals FedAvg with one local SGD step of rate 1 and the same server (tested).
"""

from collections.abc import Sequence
from typing import Literal

from fedprofit.algorithm.base import Algorithm, AlgorithmSettings, Context, WithServer, stacked
from fedprofit.config.base import Positive
from fedprofit.core.types import ClientBatches, LocalResult, RoundReport, ServerState
from fedprofit.data.batching import one_batch


class FedSgd(WithServer, AlgorithmSettings, kind="fedsgd", paper="McMahan et al. 2017, arXiv 1602.05629"):
    """Federated SGD: one gradient per client and round, averaged, a server optimizer."""

    batch_size: Positive | Literal["full"] = 16
    """Examples that each client's gradient is computed on; full: all it has."""

    def per_client(self, examples: float) -> tuple[float, float]:
        """Return one step, and how many rows it reads of a client with that many examples."""
        return 1, examples if self.batch_size == "full" else min(self.batch_size, examples)

    def build(self, context: Context) -> Algorithm:
        """Build FedSGD from its parts."""
        from fedprofit.local.stacked import finite_clients

        server = self.build_server()

        def one_round(
            state: ServerState, cohort: Sequence[ClientBatches], context: Context
        ) -> tuple[ServerState, RoundReport]:
            here = stacked(state.params, len(cohort))
            batches = [one.batches[0] if one.batches else () for one in cohort]
            found = context.solver.gradients(here, batches)
            finite = finite_clients(found.losses, found.gradients).tolist()
            losses = found.losses.tolist()
            result = LocalResult(
                params=here,
                losses=[[loss] if one.batches else [] for one, loss in zip(cohort, losses, strict=True)],
                steps=[int(bool(one.batches) and ok) for one, ok in zip(cohort, finite, strict=True)],
                tokens=found.tokens,
                stopped={
                    one.client: "loss or gradient not finite"
                    for one, ok in zip(cohort, finite, strict=True)
                    if not ok
                },
            )
            deltas = {key: -gradient for key, gradient in found.gradients.items()}
            return server.step(state, cohort, result, deltas, context)

        return Algorithm(self.name, one_batch(self.batch_size), server.init, one_round)
