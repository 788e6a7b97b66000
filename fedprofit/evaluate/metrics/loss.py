"""The loss, in nats per target token."""

from math import inf

from fedprofit.evaluate.metrics.base import Answer, Metric


class Loss(Metric, kind="loss"):
    """Mean negative log-likelihood per target token of an example, averaged over examples."""

    title = "Loss"
    unit = "nats per target token"
    lower_is_better = True
    bounds = (0.0, inf)
    digits = 2
    needs_text = False
    rank = 2

    def score(self, answer: Answer) -> float:
        """Return the mean over the example's target tokens."""
        return answer.loss / answer.tokens


LOSS = Loss()  # selects rounds, trials and steps
