"""The loss over all target tokens of a set: long targets weigh more than short ones."""

from typing import Literal

from fedprofit.evaluate.accumulate import Mean
from fedprofit.evaluate.metrics.base import Answer
from fedprofit.evaluate.metrics.loss import Loss


class TokenLoss(Loss, kind="token_loss"):
    """Negative log-likelihood per target token, over all target tokens of a set."""

    title = "Token-weighted loss"
    counted = "target tokens"
    rank = 9
    stands_in = "loss"

    average: Literal["examples", "tasks"] = "examples"
    """What a score averages over. examples: all target tokens of a set have the same weight."""

    def accumulate(self, answer: Answer, score: float | None) -> Mean:
        """Weigh examples by their target tokens."""
        return Mean(answer.loss, answer.tokens)
