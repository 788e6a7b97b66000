"""A federated algorithm is a value: pure functions over explicit state, built from parts.

A new algorithm is one file: a settings class with a `kind`, its paper and equation, and a `build` that
returns an `Algorithm`. `fedavg.py` is the shortest to read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from fedprofit.config.base import Section
from fedprofit.config.component import Component
from fedprofit.config.trial import Trial
from fedprofit.core.types import ClientBatches, LocalResult, Params, RoundReport, ServerState
from fedprofit.data.batching import BatchPlan
from fedprofit.local.base import LocalSolver
from fedprofit.server.optimizer import PlainServer, ServerOptimizer, ServerOptimizerSettings
from fedprofit.server.steps.mean import Mean
from fedprofit.server.store import ClientStore
from fedprofit.server.update import Chain, Steps


@dataclass(frozen=True)
class Context:
    """Inputs that a run provides to an algorithm.

    Attributes:
        solver: trains all clients of a cohort at once.
        seed: of the run.
        population: how many train clients there are; 0 if unknown.
        clients: the state that each client keeps between rounds.
        round: the current round, from 1; 0 before the first.
    """

    solver: LocalSolver
    seed: int = 0
    population: int = 0
    clients: ClientStore = field(default_factory=ClientStore)
    round: int = 0

    def at(self, round: int) -> "Context":
        """Return the context of a round."""
        return replace(self, round=round)


Round = Callable[[ServerState, Sequence[ClientBatches], Context], tuple[ServerState, RoundReport]]
Personal = Callable[[ServerState, Sequence[ClientBatches], Context], Params]


@dataclass(frozen=True)
class Algorithm:
    """A federated algorithm.

    Attributes:
        name: its name in results.
        plan: how a client's examples become this round's batches.
        init: the server's state from the common initialization.
        round: one round: `(state, cohort, context) -> (state, report)`.
        personal: personal parameters after the last round, stacked `[clients, ...]`:
            `(state, clients with their batches, context) -> params`. For a participating client, they are
            read from the client store; for a new one, computed from its batches. None for methods without
            personal parameters.
    """

    name: str
    plan: BatchPlan
    init: Callable[[Params], ServerState]
    round: Round
    personal: Personal | None = None


class AlgorithmSettings(Trial, Component, family="algorithm", package="fedprofit.algorithm"):
    """Settings of a federated algorithm."""

    needs: ClassVar[tuple[tuple[str, ...], ...]] = (("build",),)

    def per_client(self, examples: float) -> tuple[float, float]:
        """Return the local steps of a client with that many examples, and how many rows each step reads.

        Only used to estimate time and memory.
        """
        return 1, examples

    def build(self, context: Context) -> Algorithm:
        """Make the algorithm from the inputs of a run."""
        raise NotImplementedError


@dataclass(frozen=True)
class Server:
    """The server's half of a round: aggregate what the clients returned, then apply it."""

    chain: Chain
    optimizer: ServerOptimizer

    def init(self, params: Params, **extra: Params) -> ServerState:
        """Return the state before the first round; `extra` is further state of the algorithm, by name."""
        return replace(self.optimizer.init(params), extra={**self.chain.init(params), **extra})

    def step(
        self,
        state: ServerState,
        cohort: Sequence[ClientBatches],
        result: LocalResult,
        deltas: Params,
        context: Context,
        beside: Params | None = None,
    ) -> tuple[ServerState, RoundReport]:
        """Aggregate the clients' updates, apply them and report the round.

        A round in which no client returned anything changes no parameters and no moments.

        Args:
            state: of the server.
            cohort: its clients, with their batches.
            result: what the local solver returned.
            deltas: the clients' updates, stacked `[clients, ...]`.
            context: of the round.
            beside: further tensors, unstacked, that each client receives and sends; counted in the report.
        """
        examples, down = examples_of(cohort, result), size_of(state.params) + size_of(beside or {})
        if not any(examples):
            return replace(state, round=state.round + 1), report(cohort, result, examples, down, 0)
        names = [one.client for one in cohort]
        found = self.chain.update(
            deltas, names, examples, state.extra, context.seed, context.round, context.clients
        )
        up = found.bytes_up + size_of(beside or {}) * sum(count > 0 for count in examples)
        summary = report(cohort, result, self.chain.weigh(examples), down, up)
        return replace(self.optimizer.apply(state, found.delta), extra=found.states), summary


class WithServer(Section):
    """The server's half of an algorithm's settings."""

    aggregate: Steps = (Mean(),)
    """The steps from the clients' updates to the server's, in order."""
    server: ServerOptimizerSettings = PlainServer()
    """The optimizer that applies the aggregated update."""

    def build_server(self) -> Server:
        """Make the server's half of a round."""
        return Server(Chain(self.aggregate), self.server.build())


def stacked(params: Params, clients: int) -> Params:
    """Repeat parameters for each client, without copying them: `[...]` to `[clients, ...]`."""
    return {key: tensor.expand(clients, *tensor.shape) for key, tensor in params.items()}


def examples_of(cohort: Sequence[ClientBatches], result: LocalResult) -> list[float]:
    """Return each client's number of examples; 0 for those without data and those that stopped."""
    return [one.weight if one.batches and one.client not in result.stopped else 0.0 for one in cohort]


def zeros_like(params: Params) -> Params:
    """Return zeros of the same shapes."""
    import torch

    return {key: torch.zeros_like(tensor) for key, tensor in params.items()}


def size_of(params: Params) -> int:
    """Return the bytes of all tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in params.values())


def report(
    cohort: Sequence[ClientBatches],
    result: LocalResult,
    weights: Sequence[float],
    down: int,
    bytes_up: int,
) -> RoundReport:
    """Report a round: its loss, weighted like the clients' updates, and its cost.

    Each client of the cohort receives `down` bytes; all of them send `bytes_up` in total.
    """
    means = [
        (sum(losses) / len(losses), weight)
        for losses, weight in zip(result.losses, weights, strict=True)
        if weight
    ]
    total = sum(weight for _, weight in means)
    return RoundReport(
        loss=sum(loss * weight for loss, weight in means) / total if means else float("nan"),
        clients=len(cohort),
        steps=sum(result.steps),
        tokens=sum(result.tokens),
        bytes_down=down * len(cohort),
        bytes_up=bytes_up,
        stopped=result.stopped,
    )
