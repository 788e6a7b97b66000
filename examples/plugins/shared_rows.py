"""FedPer on a prompt: its first rows are shared by all clients, the last ones are each client's own.

fedprofit run config.yaml --plugin examples/plugins/shared_rows.py

personalization:
  - {kind: private_rows, steps: 20, private: 5}
"""

from typing import Any

from fedprofit.config.base import Positive
from fedprofit.core.types import Params
from fedprofit.data.batching import LocalSteps
from fedprofit.local.base import LocalSolver
from fedprofit.local.optimizer import Adam, ClientOptimizerSettings
from fedprofit.personalization import base
from fedprofit.personalization.base import PersonalizationSettings

FEDPER = "Arivazhagan et al. 2019, arXiv 1912.00818"


class LastRows(ClientOptimizerSettings, kind="last_rows"):
    """Another optimizer that moves only the last rows of a prompt."""

    inner: ClientOptimizerSettings = Adam(rate=0.003)
    """The optimizer of these rows."""
    rows: Positive = 5
    """How many rows move."""
    moments = property(lambda self: self.inner.moments)

    def step(self, parameter: Any, gradient: Any, moments: Any, steps: Any) -> Any:
        """Step by the inner optimizer, then put the other rows back."""
        moved, after = self.inner.step(parameter, gradient, moments, steps)
        moved[:, : -self.rows] = parameter[:, : -self.rows]
        return moved, after


class PrivateRows(LocalSteps, PersonalizationSettings, kind="private_rows", paper=FEDPER):
    """Fine-tuning of a prompt's last rows only; the others stay as they are shared."""

    client: ClientOptimizerSettings = Adam(rate=0.003)
    """The optimizer of the local steps."""
    private: Positive = 5
    """How many rows, the last ones, are each client's own."""

    def build(self, solver: LocalSolver) -> base.Personalize:
        """Make the function that fine-tunes."""
        optimizer = LastRows(inner=self.client, rows=self.private)

        def tune(start: Params, clients: Any, examples: Any, seed: int) -> base.Personalized:
            cohort = base.draw_batches(self.plan(), clients, examples, seed)
            shared = base.broadcast(start, len(clients))
            return base.train_clients(solver, shared, cohort, optimizer, evaluate_at=self.evaluate_at)

        return tune
