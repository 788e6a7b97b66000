"""Resolution of a run's metrics for its data set, and its record.

A metric resolves its own `auto` settings (`Metric.resolve`) and describes its variant (`Metric.describe`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedprofit.evaluate.facts import DataFacts, MetricFacts, Variant
from fedprofit.evaluate.metrics.base import Metric
from fedprofit.evaluate.metrics.exact_match import ExactMatch
from fedprofit.evaluate.metrics.rouge_l import RougeL

METRICS = "metrics"  # section of environment.json and summary.json with the facts of metrics
EARLIER = "scoring"  # section of earlier versions, on variants only


@dataclass(frozen=True)
class Scoring:
    """The resolved metrics of a run, and the facts of its data set."""

    metrics: tuple[Metric, ...]
    data: DataFacts

    def to_mapping(self) -> dict[str, Any]:
        """Return the facts of each metric as plain values."""
        return {one.name: {"kind": one.kind, **one.facts(self.data).to_mapping()} for one in self.metrics}


def decide(metrics: Sequence[Metric], data: DataFacts) -> Scoring:
    """Resolve the `auto` settings of each metric.

    >>> scoring = decide([RougeL()], DataFacts("table", targets=100, unread_targets=1))
    >>> scoring.to_mapping()["rouge_l"]["variant"]["text"]
    'ROUGE-L: tokenizer unicode'
    """
    return Scoring(tuple(one.resolve(data) for one in metrics), data)


def recorded_facts(record: Mapping[str, Any]) -> dict[str, MetricFacts]:
    """Read the facts of metrics from a run's environment; for earlier versions, return built-in ones.

    >>> recorded_facts({"versions": {}})["exact_match"].variant.name
    'sni'
    """
    found = record.get(METRICS)
    if found is None:
        return _earlier(record.get(EARLIER, {}))
    return {name: MetricFacts.from_mapping({**facts, "name": name}) for name, facts in found.items()}


def recorded_variant(record: Mapping[str, Any], metric: str) -> Variant:
    """Read the variant of a metric from a run's environment."""
    facts = recorded_facts(record).get(metric)
    return facts.variant if facts else Variant()


def _earlier(found: Mapping[str, Any]) -> dict[str, MetricFacts]:
    """Return the facts that earlier versions recorded; the first ones had one variant and recorded none."""
    data = DataFacts("", found.get("targets", 0), found.get("unread_targets", 0))
    used = (
        RougeL(tokenizer=found.get("rouge_tokenizer", "rouge-score")),
        ExactMatch(variant=found.get("exact_match", "sni")),
    )
    return {one.name: one.facts(data) for one in used}
