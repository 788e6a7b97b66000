"""The loss, in nats per target token."""

from math import inf

from fedprofit.evaluate.accumulate import Mean
from fedprofit.evaluate.metrics.base import Answer, Metric


class Loss(Metric, kind="loss"):
    """Negative log-likelihood per target token, over all target tokens of a set."""

    title = "Loss"
    unit = "nats per target token"
    lower_is_better = True
    bounds = (0.0, inf)
    digits = 2
    needs_text = False
    counted = "target tokens"
    rank = 2

    def score(self, answer: Answer) -> float:
        """Return the mean over the example's target tokens."""
        return answer.loss / answer.tokens

    def accumulate(self, answer: Answer, score: float | None) -> Mean:
        """Weigh examples by their target tokens."""
        return Mean(answer.loss, answer.tokens)


LOSS = Loss()  # what rounds, trials and steps are selected by
