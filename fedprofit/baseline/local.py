"""Local and central training: one prompt per client, or one prompt on the pooled data."""

from collections.abc import Callable, Sequence
from typing import ClassVar

from fedprofit.baseline.base import BaselineContext, BaselineSettings
from fedprofit.core.types import ClientId, Example
from fedprofit.data.batching import LocalSteps
from fedprofit.local.optimizer import Adam, ClientOptimizerSettings
from fedprofit.personalization.base import Personalized
from fedprofit.personalization.finetune import FineTune


class _Tuned(LocalSteps, BaselineSettings):
    """Training from the common initialization with a client optimizer."""

    client: ClientOptimizerSettings = Adam(rate=0.03)
    """The client optimizer."""

    def _tune(
        self,
        context: BaselineContext,
        clients: Sequence[ClientId],
        examples: Callable[[ClientId], Sequence[Example]],
    ) -> Personalized:
        tuning = FineTune(
            steps=self.steps,
            epochs=self.epochs,
            batch_size=self.batch_size,
            client=self.client,
            evaluate_at=self.evaluate_at,
        )
        return tuning.build(context.solver)(context.start, clients, examples, context.seed)


class Local(_Tuned, kind="local"):
    """One prompt per client, trained only on its own data: performance without federation."""

    def train(self, context: BaselineContext, clients: Sequence[ClientId]) -> Personalized:
        """Train each client on its own examples."""
        return self._tune(context, clients, context.examples)


class Central(_Tuned, kind="central"):
    """One prompt trained on the pooled data of the train clients: performance without privacy."""

    is_shared: ClassVar[bool] = True

    def train(self, context: BaselineContext, clients: Sequence[ClientId]) -> Personalized:
        """Train one prompt on the pool."""
        return self._tune(context, ["pool"], lambda _: context.pool)
