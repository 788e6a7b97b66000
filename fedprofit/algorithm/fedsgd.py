"""FedSGD (McMahan et al. 2017): one gradient a client and round.

    each client k of the cohort:  g_k = gradient of its loss at x, on one batch or on all its data
    server:                       d = - sum_k w_k g_k / sum_k w_k;   x <- server(x, d)

FedAvg with one local SGD step of rate 1 and the same server is the same thing: a test.
"""

from collections.abc import Sequence

from fedprofit.algorithm.base import Algorithm, effective_weights, next_state, report
from fedprofit.backbone.engine import Engine
from fedprofit.config import FedSgdConfig
from fedprofit.data.batching import one_batch
from fedprofit.local.solver import finite_clients, gradients
from fedprofit.server.optimizer import server_optimizer
from fedprofit.types import ClientWork, LocalResult, RoundReport, ServerState


def fedsgd(engine: Engine, settings: FedSgdConfig) -> Algorithm:
    """Build FedSGD from its parts."""
    server = server_optimizer(settings.server)

    def one_round(state: ServerState, work: Sequence[ClientWork]) -> tuple[ServerState, RoundReport]:
        here = {key: tensor.expand(len(work), *tensor.shape) for key, tensor in state.params.items()}
        found = gradients(engine, here, [client.batches[0] if client.batches else () for client in work])
        finite = finite_clients(found.losses, found.gradients).tolist()
        result = LocalResult(
            params=here,
            losses=[[loss] if w.batches else [] for w, loss in zip(work, found.losses.tolist(), strict=True)],
            steps=[int(bool(w.batches) and ok) for w, ok in zip(work, finite, strict=True)],
            tokens=found.tokens,
            stopped={
                w.client: "loss or gradient not finite" for w, ok in zip(work, finite, strict=True) if not ok
            },
        )
        weights = effective_weights(work, result, settings.weights == "uniform")
        deltas = {key: -gradient for key, gradient in found.gradients.items()}
        return next_state(server, state, deltas, weights), report(work, result, weights, state.params)

    return Algorithm(settings.name, one_batch(settings.batch_size), server.init, one_round)
