"""The loss over all target tokens of a set: long targets weigh more than short ones."""

from math import inf
from typing import Literal

from fedprofit.evaluate.accumulate import Mean
from fedprofit.evaluate.metrics.base import Answer, Metric


class TokenLoss(Metric, kind="token_loss"):
    """Negative log-likelihood per target token, over all target tokens of a set."""

    title = "Token-weighted loss"
    unit = "nats per target token"
    lower_is_better = True
    bounds = (0.0, inf)
    digits = 2
    needs_text = False
    counted = "target tokens"
    rank = 9
    stands_in = "loss"

    average: Literal["examples", "tasks"] = "examples"
    """What a score averages over. examples: all target tokens of a set have the same weight."""

    def score(self, answer: Answer) -> float:
        """Return the mean over the example's target tokens."""
        return answer.loss / answer.tokens

    def accumulate(self, answer: Answer, score: float | None) -> Mean:
        """Weigh examples by their target tokens."""
        return Mean(answer.loss, answer.tokens)
