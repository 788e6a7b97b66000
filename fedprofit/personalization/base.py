"""What personalizes a federated prompt: many clients at once, each on its own examples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import model_validator

from fedprofit.config.base import Fraction, Name, Positive
from fedprofit.config.component import Component
from fedprofit.config.trial import Named
from fedprofit.core.types import ClientId, Example, LocalResult, Params
from fedprofit.local.base import LocalSolver
from fedprofit.predict.base import PredictorSettings


@dataclass(frozen=True)
class Personalized:
    """The clients' parameters along their steps."""

    clients: list[ClientId]
    points: dict[int, Params]  # evaluation step -> stacked parameters, in the clients' order
    result: LocalResult

    @property
    def facts(self) -> dict[str, Any]:
        """What is kept beside the prompts: clients, the steps that each took, and why any stopped."""
        return {"clients": self.clients, "steps": self.result.steps, "stopped": self.result.stopped}


# From a start (unstacked), clients, their examples and a seed to the clients' own parameters.
Personalize = Callable[
    [Params, Sequence[ClientId], Callable[[ClientId], Sequence[Example]], int], Personalized
]


class PersonalizationSettings(
    Named,
    Component,
    family="personalization",
    package="fedprofit.personalization",
    default="finetune",
):
    """How clients personalize a federated prompt."""

    algorithms: tuple[Name, ...] | None = None
    """The algorithms whose prompts are personalized; all if not given."""
    evaluate_at: tuple[Positive, ...] = ()
    """Steps after which clients are scored; the last step is always scored."""
    interpolation: tuple[Fraction, ...] = ()
    """Weights alpha at which alpha x personal + (1 - alpha) x federated is scored too."""
    interpolate_at: Literal["last", "all"] = "last"
    """Whether only the last step is interpolated or all scored ones; each alpha costs a full scoring."""
    predictors: tuple[PredictorSettings, ...] = ()
    """Predictors that are scored at the last step too, made of the personal and the federated parameters."""
    start: Literal["last", "best"] = "last"
    """The federated prompt of the last round, or of the best one on the validation clients."""

    @model_validator(mode="after")
    def _predictors_are_distinct(self) -> Self:
        names = [predictor.name for predictor in self.predictors]
        if len(set(names)) < len(names):
            raise ValueError("predictors: two entries have the same name; give each a name of its own")
        return self

    def per_client(self, examples: float) -> tuple[float, float]:
        """Return the steps of a client with that many examples, and how many rows each step reads.

        Estimates of time and memory are made from it; it changes no result.
        """
        return 1, examples

    @property
    def known_rate(self) -> float | None:
        """The client learning rate, for the tables; None where there is none."""
        rate = getattr(getattr(self, "client", None), "rate", None)
        return rate if isinstance(rate, float) else None

    @property
    def known_pull(self) -> float:
        """The weight of the proximal term, for the tables."""
        pull = getattr(self, "pull", 0.0)
        return pull if isinstance(pull, float) else 0.0

    def build(self, solver: LocalSolver) -> Personalize:
        """Make the function that personalizes.

        Args:
            solver: computes what clients compute, for all of them at once.
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
