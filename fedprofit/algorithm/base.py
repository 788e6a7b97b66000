"""A federated algorithm is a value: pure functions over explicit state, built from parts.

A new algorithm is one file: a settings class with a `kind`, its paper and equation, and a `build` that
returns an `Algorithm`. `fedavg.py` is the shortest to read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fedprofit.config.component import Component
from fedprofit.config.trial import Trial
from fedprofit.core.types import ClientWork, LocalResult, Params, RoundReport, ServerState
from fedprofit.data.batching import BatchPlan
from fedprofit.local.base import LocalSolver

if TYPE_CHECKING:
    from fedprofit.server.optimizer import ServerOptimizer


class AlgorithmSettings(Trial, Component, family="algorithm", package="fedprofit.algorithm"):
    """Settings of a federated algorithm."""

    def per_client(self, examples: float) -> tuple[float, float]:
        """Return the local steps of a client with that many examples, and how many rows each step reads.

        Estimates of time and memory are made from it; it changes no result.
        """
        return 1, examples

    def build(self, context: "Context") -> "Algorithm":
        """Make the algorithm from what a run gives it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Context:
    """What a run gives to an algorithm.

    Attributes:
        solver: computes what clients compute, for a whole cohort at once.
    """

    solver: LocalSolver


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
    server: "ServerOptimizer", state: ServerState, deltas: Params, weights: Sequence[float]
) -> ServerState:
    """Average what the clients returned, `[clients, ...]` each, and let the server apply it.

    A round in which none returned anything moves nothing, whatever moments the server has.
    """
    from fedprofit.server.aggregate import weighted_mean

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
