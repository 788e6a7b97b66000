"""FedAvg (McMahan et al. 2017) with a server optimizer (Reddi et al. 2021, Algorithm 1).

    each client k of the cohort:  x_k <- several steps of its optimizer from x
    server:                       d = sum_k w_k (x_k - x) / sum_k w_k;   x <- server(x, d)

The client optimizer's state is fresh every round. With a server SGD of rate 1 this is plain averaging.
"""

from collections.abc import Sequence

from fedprofit.algorithm.base import Algorithm, effective_weights, next_state, report
from fedprofit.backbone.engine import Engine
from fedprofit.config import FedAvgConfig
from fedprofit.data.batching import plan_of
from fedprofit.local.solver import solve
from fedprofit.server.optimizer import server_optimizer
from fedprofit.types import ClientWork, RoundReport, ServerState


def fedavg(engine: Engine, settings: FedAvgConfig) -> Algorithm:
    """Build FedAvg from its parts."""
    server = server_optimizer(settings.server)

    def one_round(state: ServerState, work: Sequence[ClientWork]) -> tuple[ServerState, RoundReport]:
        start = {key: tensor.expand(len(work), *tensor.shape) for key, tensor in state.params.items()}
        result, _ = solve(engine, start, work, settings.client)
        weights = effective_weights(work, result, settings.weights == "uniform")
        deltas = {key: result.params[key] - start[key] for key in start}
        summary = report(work, result, weights, state.params)
        return next_state(server, state, deltas, weights), summary

    return Algorithm(settings.name, plan_of(settings), server.init, one_round)
