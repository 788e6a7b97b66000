"""Fine-tuning that stays near the federated prompt in what the model predicts, not in parameter space.

fedprofit run config.yaml --plugin examples/plugins/kl_anchor.py

personalization:
  - {kind: kl_anchor, steps: 20, weight: 0.5}
"""

from collections.abc import Sequence

from fedprofit.config.base import Weight
from fedprofit.core.types import ClientId, Params
from fedprofit.data.batching import LocalSteps
from fedprofit.local.base import LocalSolver
from fedprofit.local.objective import Kl
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


class KlAnchor(
    LocalSteps, PersonalizationSettings, kind="kl_anchor", paper="Li and Hoiem 2016, arXiv 1606.09282"
):
    """Fine-tuning with a KL penalty on the distance from the federated prompt's predictions."""

    client: ClientOptimizerSettings = Adam(rate=0.003)
    """The optimizer of the local steps."""
    weight: Weight = 0.5
    """The weight of KL(federated || personal), averaged over target tokens."""

    def build(self, solver: LocalSolver) -> Personalize:
        """Make the function that fine-tunes."""

        def tune(start: Params, clients: Sequence[ClientId], examples: ExamplesOf, seed: int) -> Personalized:
            anchor = broadcast(start, len(clients))
            cohort = draw_batches(self.plan(), clients, examples, seed)
            terms = [Kl(self.weight, anchor)]
            return train_clients(solver, anchor, cohort, self.client, terms, self.evaluate_at)

        return tune
