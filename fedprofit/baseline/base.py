"""The base class of baselines: training without a federation, such as local or central training.

A run scores baselines like every other method, and selects among their trials as for algorithms.
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
    """Inputs that a run provides to its baselines.

    Attributes:
        solver: computes local training for many clients at once.
        start: the common initialization of all methods, unstacked.
        examples: returns a client's train examples.
        pool: the train examples of all train clients.
        seed: the seed of the run.
    """

    solver: LocalSolver
    start: Params
    examples: Callable[[ClientId], Sequence[Example]]
    pool: Sequence[Example]
    seed: int


class BaselineSettings(Named, Component, family="baseline", package="fedprofit.baseline"):
    """Settings of a baseline."""

    needs: ClassVar[tuple[tuple[str, ...], ...]] = (("train",),)

    evaluate_at: tuple[Positive, ...] = ()
    """Steps after which the baseline is scored. The last step is always scored."""

    is_shared: ClassVar[bool] = False  # whether all clients share one set of parameters
    interpolation: ClassVar[tuple[float, ...]] = ()  # no interpolation: there is no federated prompt
    interpolate_at: ClassVar[str] = "last"
    predictors: ClassVar[tuple[PredictorSettings, ...]] = ()

    def train(self, context: BaselineContext, clients: Sequence[ClientId]) -> Personalized:
        """Train parameters for these clients.

        Args:
            context: the inputs from the run.
            clients: the clients to score. Shared parameters serve all of them.

        Returns:
            Stacked parameters by step, one entry per client; a single entry if they are shared.
        """
        raise NotImplementedError

    def per_client(self, examples: float) -> tuple[float, float]:
        """Return the number of steps for that many examples, and the examples per step.

        Only used to estimate time and memory.
        """
        return 1, examples
