"""Facts of metrics by name in results, and the order in which metrics are shown.

Known are the facts recorded in opened results and those of registered metrics. Any other metric is shown
under its own name; higher values are assumed to be better.
"""

from collections.abc import Iterable, Mapping

from fedprofit.evaluate.facts import MetricFacts
from fedprofit.evaluate.metrics.base import Metric

_recorded: dict[str, MetricFacts] = {}  # by name, from the results opened last


def remember(facts: Mapping[str, MetricFacts]) -> None:
    """Set the recorded facts for `metric_of`: the results' plug-ins may not be loaded here."""
    _recorded.update(facts)


def known_metrics() -> list[str]:
    """Return the kinds of all registered metrics, the most informative first."""
    return in_order(Metric.family.all_kinds())


def metric_of(name: str) -> MetricFacts:
    """Return the known facts of a metric.

    >>> metric_of("loss").heading
    'Loss in nats per target token, lower is better'
    >>> metric_of("bleu").heading
    'bleu, higher is taken to be better'
    """
    if name in _recorded:
        return _recorded[name]
    registered = Metric.family.all_kinds().get(name)
    if registered is None:
        return MetricFacts(name, name, direction="higher is taken to be better", digits=2)
    one = registered.model_construct(name=name)  # its own settings may have no defaults
    assert isinstance(one, Metric)
    return one.facts()


def in_order(names: Iterable[str]) -> list[str]:
    """Sort metrics, the most informative first. Reports show it first, and `recommend` selects by it.

    >>> in_order(["loss", "chrf", "rouge_l", "bleu"])
    ['rouge_l', 'loss', 'bleu', 'chrf']
    """
    return sorted(set(names), key=lambda name: (metric_of(name).rank, name))


def lower_ones(names: Iterable[str]) -> list[str]:
    """Return the metrics for which lower values are better.

    >>> lower_ones(["rouge_l", "loss"])
    ['loss']
    """
    return [name for name in names if metric_of(name).lower_is_better]


def main_ones(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split metrics into those to show if space is limited, and the others, which are only named.

    >>> main_ones(["loss", "exact_match", "rouge_l"]), main_ones(["loss", "exact_match"])
    ((['rouge_l', 'loss'], ['exact_match']), (['exact_match', 'loss'], []))
    """
    found = in_order(names)
    left_out = [name for name in found if metric_of(name).stands_in in found]
    return [name for name in found if name not in left_out], left_out


def titles(names: Iterable[str]) -> str:
    """Name metrics in a sentence.

    >>> titles(["exact_match", "loss"])
    'Exact match, Loss'
    """
    return ", ".join(metric_of(name).title for name in names)
