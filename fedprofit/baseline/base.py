"""The base class of baselines: what federated training is compared with.

A new baseline is one file: a settings class with a `kind` and one of three methods.

- `train` returns parameters, as local or central training does. The validation clients select one of several
  trials.
- `predictor` returns a predictor that needs no training, such as the base model with examples in context.
- `answer` returns texts without a model, such as the most frequent label. They are scored by the metrics that
  need text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fedprofit.config.base import Positive
from fedprofit.config.component import Component
from fedprofit.config.trial import Named
from fedprofit.core.types import ClientId, Example, Params
from fedprofit.local.base import LocalSolver
from fedprofit.personalization.base import Personalized
from fedprofit.predict.base import Predictor, PredictorSettings
from fedprofit.tuner.base import Tuner

if TYPE_CHECKING:
    from fedprofit.backbone.engine import Engine


@dataclass(frozen=True)
class BaselineContext:
    """Inputs that a run provides to its baselines.

    Attributes:
        engine: the frozen backbone.
        tuner: of the parameters.
        solver: computes local training for many clients at once.
        start: the common initialization of all methods, unstacked.
        examples: returns a client's train examples.
        pool: the train examples of all train clients.
        room: free tokens in the model's context with the longest row; None without a limit.
        seed: the seed of the run.
    """

    engine: "Engine"
    tuner: Tuner
    solver: LocalSolver
    start: Params
    examples: Callable[[ClientId], Sequence[Example]]
    pool: Sequence[Example]
    room: int | None
    seed: int


# From a client, whether the example is its own, and the example to an answer; None if there is none.
AnswerOf = Callable[[ClientId, bool, Example], str | None]


class BaselineSettings(Named, Component, family="baseline", package="fedprofit.baseline"):
    """Settings of a baseline."""

    needs: ClassVar[tuple[tuple[str, ...], ...]] = (("train", "predictor", "answer"),)

    evaluate_at: tuple[Positive, ...] = ()
    """Steps after which a trained baseline is scored. The last step is always scored."""

    is_shared: ClassVar[bool] = False  # whether all clients share one set of parameters
    interpolation: ClassVar[tuple[float, ...]] = ()  # no interpolation: there is no federated prompt
    interpolate_at: ClassVar[str] = "last"
    predictors: ClassVar[tuple[PredictorSettings, ...]] = ()

    @property
    def is_trained(self) -> bool:
        """Whether the baseline trains parameters."""
        return type(self).train is not BaselineSettings.train

    @property
    def answers_without_model(self) -> bool:
        """Whether the baseline returns texts, which have no loss."""
        return type(self).answer is not BaselineSettings.answer

    def train(self, context: BaselineContext, clients: Sequence[ClientId]) -> Personalized:
        """Train parameters for these clients.

        Args:
            context: the inputs from the run.
            clients: the clients to score. Shared parameters serve all of them.

        Returns:
            Stacked parameters by step, one entry per client; a single entry if they are shared.
        """
        raise NotImplementedError

    def predictor(self, context: BaselineContext, clients: Sequence[ClientId]) -> Predictor:
        """Return the predictor for these clients; arguments as of `train`."""
        raise NotImplementedError

    def answer(self, context: BaselineContext, clients: Sequence[ClientId]) -> AnswerOf:
        """Return the function that answers for these clients; arguments as of `train`."""
        raise NotImplementedError

    def per_client(self, examples: float) -> tuple[float, float]:
        """Return the number of steps for that many examples, and the examples per step.

        Only used to estimate time and memory.
        """
        return 1, examples

    def extra_tokens(self, longest: int) -> int:
        """Return how many tokens a predictor reads at most before an example.

        Args:
            longest: tokens of the longest example of the data set.
        """
        return 0
