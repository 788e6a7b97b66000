"""Token F1 of answers, as SQuAD's evaluation defines it: a metric in a file of its own.

evaluation:
  metrics: [loss, token_f1]

fedprofit run config.yaml --plugin token_f1.py
"""

import re
import string
from collections import Counter

from fedprofit.evaluate.metrics.base import Answer, Metric

PUNCTUATION = str.maketrans("", "", string.punctuation)


class TokenF1(Metric, kind="token_f1", paper="Rajpurkar et al. 2016, arXiv 1606.05250"):
    """F1 of the words that answer and reference share, the best over the references."""

    title = "Token F1"
    scale = "0 to 100"
    bounds = (0.0, 100.0)

    articles: bool = False
    """Whether a, an and the count as words."""

    def score(self, answer: Answer) -> float:
        """Return the F1 times 100."""
        words = self.words(answer.text or "")
        return 100 * max(f1(words, self.words(reference)) for reference in answer.references)

    def words(self, text: str) -> list[str]:
        """Split a text into words, without case and punctuation."""
        plain = text.lower().translate(PUNCTUATION)
        return (plain if self.articles else re.sub(r"\b(a|an|the)\b", " ", plain)).split()


def f1(answer: list[str], reference: list[str]) -> float:
    """Return the harmonic mean of precision and recall; without words, whether both have none."""
    if not answer or not reference:
        return float(answer == reference)
    shared = (Counter(answer) & Counter(reference)).total()
    return 2 * shared / (len(answer) + len(reference))
