"""A baseline trains parameters without a federation: each client alone, say, or one prompt on pooled data.

The runner scores it like every other method, and selects among its trials like among those of an algorithm.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedprofit.config.base import Positive
from fedprofit.config.component import Component
from fedprofit.config.trial import Named
from fedprofit.core.types import ClientId, Example, Params
from fedprofit.local.base import LocalSolver
from fedprofit.personalization.base import Personalized
from fedprofit.predict.base import PredictorSettings


@dataclass(frozen=True)
class BaselineContext:
    """What a run gives to a baseline.

    Attributes:
        solver: computes what clients compute, for all of them at once.
        start: the one initialization of all methods, unstacked.
        examples: a client's own train examples.
        pool: the train examples of all train clients.
        seed: the run's.
    """

    solver: LocalSolver
    start: Params
    examples: Callable[[ClientId], Sequence[Example]]
    pool: Sequence[Example]
    seed: int


class BaselineSettings(Named, Component, family="baseline", package="fedprofit.baseline"):
    """Settings of a baseline."""

    evaluate_at: tuple[Positive, ...] = ()
    """Steps after which it is scored; the last step is always scored."""

    is_shared: ClassVar[bool] = False  # whether one set of parameters serves all clients
    interpolation: ClassVar[tuple[float, ...]] = ()  # with nothing: there is no federated prompt
    interpolate_at: ClassVar[str] = "last"
    predictors: ClassVar[tuple[PredictorSettings, ...]] = ()

    def train(self, context: BaselineContext, clients: Sequence[ClientId]) -> Personalized:
        """Train parameters for these clients, along their steps.

        Args:
            context: what the run gives.
            clients: who is scored; where the parameters are shared, they serve all of them.

        Returns:
            Stacked parameters by step: one entry a client, or a single one where they are shared.
        """
        raise NotImplementedError

    def per_client(self, examples: float) -> tuple[float, float]:
        """Return the steps over that many examples, and how many rows each step reads.

        Estimates of time and memory are made from it; it changes no result.
        """
        return 1, examples
