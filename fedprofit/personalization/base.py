"""Personalization of a federated prompt: many clients at once, each on its own examples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from fedprofit.config.base import Fraction, Name, Positive
from fedprofit.config.component import Component, where_of
from fedprofit.config.trial import Named
from fedprofit.core.errors import UserError, cut
from fedprofit.core.seeding import numpy_generator
from fedprofit.core.types import ClientBatches, ClientId, Example, LocalResult, Params
from fedprofit.data.batching import BatchPlan
from fedprofit.local.base import LocalSolver, Term
from fedprofit.local.optimizer import ClientOptimizerSettings
from fedprofit.predict.base import PredictorSettings


@dataclass(frozen=True)
class Personalized:
    """The clients' parameters along their steps."""

    clients: list[ClientId]
    points: dict[int, Params]  # evaluation step -> stacked parameters, in the clients' order
    result: LocalResult

    @property
    def facts(self) -> dict[str, Any]:
        """Facts stored with the prompts: clients, the steps of each, and why any stopped."""
        return {"clients": self.clients, "steps": self.result.steps, "stopped": self.result.stopped}


ExamplesOf = Callable[[ClientId], Sequence[Example]]  # a client's own train examples

# From a start (unstacked), clients, their examples and a seed to the clients' own parameters.
Personalize = Callable[[Params, Sequence[ClientId], ExamplesOf, int], Personalized]


class PersonalizationSettings(
    Named,
    Component,
    family="personalization",
    package="fedprofit.personalization",
    default="finetune",
):
    """How clients personalize a federated prompt."""

    needs: ClassVar[tuple[tuple[str, ...], ...]] = (("build",),)

    algorithms: tuple[Name, ...] | None = None
    """The algorithms whose prompts are personalized; all if not given."""
    evaluate_at: tuple[Positive, ...] = ()
    """Steps after which clients are scored; the last step is always scored."""
    interpolation: tuple[Fraction, ...] = ()
    """Weights alpha at which alpha x personal + (1 - alpha) x federated is scored too."""
    interpolate_at: Literal["last", "all"] = "last"
    """Whether only the last step is interpolated or all scored ones; each alpha costs a full scoring."""
    predictors: tuple[PredictorSettings, ...] = ()
    """Predictors made of personal and federated parameters; also scored at the last step."""
    start: Literal["last", "best"] = "last"
    """The federated prompt of the last round, or of the best one on the validation clients."""

    @model_validator(mode="after")
    def _predictors_are_distinct(self) -> Self:
        names = [predictor.name for predictor in self.predictors]
        if len(set(names)) < len(names):
            raise ValueError("predictors: two entries have the same name; give each a distinct name")
        return self

    def per_client(self, examples: float) -> tuple[float, float]:
        """Return the steps of a client with that many examples, and how many rows each step reads.

        Only used to estimate time and memory.
        """
        return 1, examples

    def build(self, solver: LocalSolver) -> Personalize:
        """Make the function that personalizes.

        Args:
            solver: trains all clients at once.
        """
        raise NotImplementedError


def stopped_before(step: int, facts: Mapping[str, Any]) -> dict[ClientId, str]:
    """Return which clients had stopped before an evaluation step, and why; `facts` of `Personalized`.

    >>> facts = {"clients": ["ann", "bob"], "steps": [8, 3], "stopped": {"bob": "loss not finite"}}
    >>> stopped_before(3, facts), stopped_before(4, facts)
    ({}, {'bob': 'loss not finite'})
    """
    taken = dict(zip(facts["clients"], facts["steps"], strict=True))
    return {client: why for client, why in facts["stopped"].items() if taken[client] < step}


def broadcast(params: Params, clients: int) -> Params:
    """Give every client the same parameters: `[...]` to `[clients, ...]`, without copies."""
    return {key: tensor.expand(clients, *tensor.shape) for key, tensor in params.items()}


def draw_batches(
    plan: BatchPlan, clients: Sequence[ClientId], examples: ExamplesOf, seed: int
) -> list[ClientBatches]:
    """Draw each client's batches for personalization.

    They depend only on seed and client, so that all starts and rates use the same batches.
    """
    cohort = []
    for client in clients:
        own = examples(client)
        positions = plan(len(own), numpy_generator(seed, "personalize", client))
        cohort.append(ClientBatches(client, [[own[p] for p in batch] for batch in positions], len(own)))
    return cohort


def train_clients(
    solver: LocalSolver,
    start: Params,
    cohort: Sequence[ClientBatches],
    optimizer: ClientOptimizerSettings,
    terms: Sequence[Term] = (),
    evaluate_at: Sequence[int] = (),
) -> Personalized:
    """Train every client on its own batches.

    Args:
        solver: trains all clients at once.
        start: each client's start, stacked `[clients, ...]`.
        cohort: the clients, with their batches.
        optimizer: of the local steps.
        terms: terms of the objective in addition to the loss.
        evaluate_at: steps to return, if some client reaches them; the last one is always returned.
    """
    last = max((len(one.batches) for one in cohort), default=0)
    points = sorted({step for step in evaluate_at if step < last} | {last})
    result, kept = solver.solve(start, cohort, optimizer, terms, points)
    return Personalized([one.client for one in cohort], kept, result)


def personalize(
    settings: PersonalizationSettings,
    solver: LocalSolver,
    start: Params,
    clients: Sequence[ClientId],
    examples: ExamplesOf,
    seed: int,
) -> Personalized:
    """Personalize by settings, and check the result.

    Raises:
        UserError: it raised UserError, or returned other clients, wrong shapes, or parameters that are not
            finite for a client that has not stopped; the message names the kind.
    """
    where = f"{where_of(type(settings))}: the personalization {settings.kind!r} ({settings.name})"
    try:
        done = settings.build(solver)(start, clients, examples, seed)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    wrong = _fault(done, start, clients)
    if wrong is not None:
        raise UserError(f"{where}: {wrong}. Correct what its build returns.")
    return done


def _fault(done: object, start: Params, clients: Sequence[ClientId]) -> str | None:
    """Return the error in the parameters of personalized clients, None if there is none."""
    from fedprofit.local.stacked import finite_slices

    if not isinstance(done, Personalized):
        return f"returned {type(done).__name__}, not Personalized"
    if list(done.clients) != list(clients) or len(done.result.steps) != len(clients):
        return f"returned {len(done.clients)} clients, not the {len(clients)} given, in their order"
    if not done.points:
        return "returned no points; the last step's parameters are needed"
    wanted = {key: [len(clients), *tensor.shape] for key, tensor in start.items()}
    sound = bool(finite_slices(broadcast(start, 1)).all())
    for step, params in done.points.items():
        shapes = {key: list(tensor.shape) for key, tensor in params.items()}
        if shapes != wanted:
            return f"returned shapes {cut(str(shapes))} after step {step}, not {cut(str(wanted))}"
        for client, finite in zip(clients, finite_slices(params).tolist(), strict=True):
            if sound and not finite and client not in done.result.stopped:
                return f"returned parameters that are not finite for client {cut(client)!r} after step {step}"
    return None
