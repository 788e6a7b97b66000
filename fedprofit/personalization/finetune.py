"""Fine-tuning of one prompt by many clients at once, each on its own train examples."""

from collections.abc import Callable, Sequence

from fedprofit.config.base import Weight
from fedprofit.core.seeding import numpy_generator
from fedprofit.core.types import ClientId, ClientWork, Example, Params
from fedprofit.data.batching import LocalSteps
from fedprofit.local.base import LocalSolver
from fedprofit.local.objective import Proximal
from fedprofit.local.optimizer import Adam, ClientOptimizerSettings
from fedprofit.personalization.base import PersonalizationSettings, Personalize, Personalized


class FineTune(LocalSteps, PersonalizationSettings, kind="finetune"):
    """Fine-tuning of a prompt on one client's data, with an L2 penalty to where it started."""

    client: ClientOptimizerSettings = Adam(rate=0.003)
    """The optimizer of the local steps."""
    proximal: Weight = 0.0
    """The weight lambda of the proximal term lambda / 2 x |params - start|^2."""

    def build(self, solver: LocalSolver) -> Personalize:
        """Make the function that fine-tunes.

        The batches depend on seed and client only, so that every start and every rate sees the same ones.
        Points are the steps of `evaluate_at` that some client reaches, and the last.
        """
        plan = self.plan()

        def finetune(
            start: Params,
            clients: Sequence[ClientId],
            examples: Callable[[ClientId], Sequence[Example]],
            seed: int,
        ) -> Personalized:
            work = []
            for client in clients:
                own = examples(client)
                positions = plan(len(own), numpy_generator(seed, "personalize", client))
                work.append(ClientWork(client, [[own[p] for p in batch] for batch in positions], len(own)))
            last = max((len(client.batches) for client in work), default=0)
            points = sorted({step for step in self.evaluate_at if step < last} | {last})
            stacked = {key: tensor.expand(len(work), *tensor.shape) for key, tensor in start.items()}
            terms = [Proximal(self.proximal, stacked)] if self.proximal else []
            result, kept = solver.solve(stacked, work, self.client, terms, points)
            return Personalized(list(clients), kept, result)

        return finetune
