"""Fine-tuning of one prompt by many clients at once, each on its own train examples."""

from collections.abc import Sequence

from fedprofit.config.base import Weight
from fedprofit.core.types import ClientId, Params
from fedprofit.data.batching import LocalSteps
from fedprofit.local.base import LocalSolver
from fedprofit.local.objective import Proximal
from fedprofit.local.optimizer import Adam, ClientOptimizerSettings
from fedprofit.personalization.base import (
    ExamplesOf,
    PersonalizationSettings,
    Personalize,
    Personalized,
    broadcast,
    draw_batches,
    train_clients,
)


class FineTune(LocalSteps, PersonalizationSettings, kind="finetune"):
    """Fine-tuning of a prompt on one client's data, with an L2 penalty on the distance from its start."""

    client: ClientOptimizerSettings = Adam(rate=0.003)
    """The optimizer of the local steps."""
    proximal: Weight = 0.0
    """The weight lambda of the proximal term lambda / 2 x |params - start|^2."""

    def build(self, solver: LocalSolver) -> Personalize:
        """Make the function that fine-tunes."""

        def finetune(
            start: Params, clients: Sequence[ClientId], examples: ExamplesOf, seed: int
        ) -> Personalized:
            anchor = broadcast(start, len(clients))
            cohort = draw_batches(self.plan(), clients, examples, seed)
            terms = [Proximal(self.proximal, anchor)] if self.proximal else []
            return train_clients(solver, anchor, cohort, self.client, terms, self.evaluate_at)

        return finetune
