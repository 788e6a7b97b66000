"""Macro-F1 over labels, for classification tasks: a metric that is not a mean over examples.

evaluation:
  metrics: [loss, macro_f1]

fedprofit run config.yaml --plugin macro_f1.py
"""

from dataclasses import dataclass

from fedprofit.evaluate.accumulate import Counts
from fedprofit.evaluate.metrics.base import Answer, Metric


@dataclass(frozen=True)
class Confusion(Counts):
    """Counts of pairs (label, answer)."""

    @property
    def value(self) -> float:
        """The mean over labels of each label's F1, times 100; NaN without labels."""
        labels = sorted({label for label, _ in self.counts})
        return 100 * sum(map(self.f1, labels)) / len(labels) if labels else float("nan")

    def f1(self, label: str) -> float:
        """Return the F1 of one label: 2 x hits / (examples that have it + answers that name it)."""
        has_it = sum(count for (is_label, _), count in self.counts.items() if is_label == label)
        named = sum(count for (_, answer), count in self.counts.items() if answer == label)
        return 2 * self.counts.get((label, label), 0) / (has_it + named)


class MacroF1(Metric, kind="macro_f1", paper="Opitz and Burst 2019, arXiv 1911.03347"):
    """Mean over labels of each label's F1. The first reference is the label of an example."""

    title = "Macro-F1"
    scale = "0 to 100"
    bounds = (0.0, 100.0)

    def accumulate(self, answer: Answer, score: float | None) -> Confusion:
        """Count the pair. Answers that are no label count as misses of the label."""
        return Confusion({(plain(answer.references[0]), plain(answer.text or "")): 1})

    def empty(self) -> Confusion:
        """Return the counts of no example."""
        return Confusion({})


def plain(text: str) -> str:
    """Return a text without case and surplus white space."""
    return " ".join(text.casefold().split())
