"""An ensemble of the personal and the federated parameters.

The next token's distribution is the renormalized weighted mean of log-probabilities,

    log p(y) = w log p_personal(y) + (1 - w) log p_federated(y) - log Z,
    Z = sum_v p_personal(v)^w p_federated(v)^(1 - w),

at every position: losses are those of one distribution per token. Answers are greedy under it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedprofit.config.base import Fraction
from fedprofit.predict.base import Predictor, PredictorContext, PredictorSettings

if TYPE_CHECKING:
    from torch import Tensor

    from fedprofit.backbone.engine import Engine
    from fedprofit.backbone.forward import Row
    from fedprofit.predict.base import Answers


class Ensemble(PredictorSettings, kind="ensemble"):
    """The mean of log-probabilities under personal and federated parameters, renormalized."""

    weight: Fraction = 0.5
    """The weight of the personal parameters; that of the federated ones is 1 minus this."""

    @property
    def passes(self) -> float:
        """Twice: under either set of parameters."""
        return 2

    @property
    def stored(self) -> int:
        """Both sets."""
        return 2

    def build(self, context: PredictorContext) -> Predictor:
        """Make the predictor of all clients."""
        import torch

        personal = context.personal_prompts
        federated = context.federated_prompt.expand_as(personal)
        return Mixture(context.engine, torch.stack([personal, federated], 1), (self.weight, 1 - self.weight))


@dataclass(frozen=True)
class Mixture:
    """Several sets of parameters per client, whose log-probabilities are averaged."""

    engine: "Engine"
    prompts: "Tensor"  # [clients, members, length, width]
    weights: Sequence[float]  # of the members; they sum to 1

    def __len__(self) -> int:
        """Return the number of clients."""
        return len(self.prompts)

    def score(self, rows: "Sequence[Row]") -> "Tensor":
        """Return each row's loss."""
        return self.engine.score_mixture(self.prompts, self.weights, rows)

    def answer(self, rows: "Sequence[Row]", max_new_tokens: int) -> "Answers":
        """Return each row's loss and greedy answer."""
        return self.engine.answer_mixture(self.prompts, self.weights, rows, max_new_tokens)
