"""An algorithm is a value: pure functions over explicit state, built from parts.

A new algorithm is one file: its paper, its equation, a function that returns an `Algorithm`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from fedprofit.data.batching import BatchPlan
from fedprofit.server.aggregate import weighted_mean
from fedprofit.server.optimizer import ServerOptimizer
from fedprofit.types import ClientWork, LocalResult, Params, RoundReport, ServerState


@dataclass(frozen=True)
class Algorithm:
    """A federated algorithm.

    Attributes:
        name: how results name it.
        plan: how a client's examples become this round's batches.
        init: the server's state from the common initialization.
        round: one round: `(state, work of the cohort) -> (state, report)`.
    """

    name: str
    plan: BatchPlan
    init: Callable[[Params], ServerState]
    round: Callable[[ServerState, Sequence[ClientWork]], tuple[ServerState, RoundReport]]


def effective_weights(work: Sequence[ClientWork], result: LocalResult, uniform: bool) -> list[float]:
    """Weigh clients by examples, or all the same; those without data or stopped weigh nothing."""
    return [
        (1.0 if uniform else client.weight) if client.batches and client.client not in result.stopped else 0.0
        for client in work
    ]


def next_state(
    server: ServerOptimizer, state: ServerState, deltas: Params, weights: Sequence[float]
) -> ServerState:
    """Average what the clients returned, `[clients, ...]` each, and let the server apply it.

    A round in which none returned anything moves nothing, whatever moments the server has.
    """
    if not any(weights):
        return replace(state, round=state.round + 1)
    return server.apply(state, weighted_mean(deltas, weights))


def report(
    work: Sequence[ClientWork], result: LocalResult, weights: Sequence[float], params: Params
) -> RoundReport:
    """Account for a round: its loss and what it cost.

    Bytes are those of the parameters, down to every client of the cohort and up from those that
    returned something.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in params.values())
    means = [
        (sum(losses) / len(losses), weight)
        for losses, weight in zip(result.losses, weights, strict=True)
        if weight
    ]
    total = sum(weight for _, weight in means)
    return RoundReport(
        loss=sum(loss * weight for loss, weight in means) / total if means else float("nan"),
        clients=len(work),
        steps=sum(result.steps),
        tokens=sum(result.tokens),
        bytes_down=size * len(work),
        bytes_up=size * len(means),
        stopped=result.stopped,
    )
