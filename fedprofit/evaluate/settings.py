"""The section `evaluation` of a configuration."""

from typing import Any, Literal, Self

from pydantic import field_validator, model_validator

from fedprofit.config.base import Count, Positive, Section
from fedprofit.evaluate.metrics.base import Metric
from fedprofit.evaluate.metrics.exact_match import ExactMatch
from fedprofit.evaluate.metrics.loss import Loss
from fedprofit.evaluate.metrics.rouge_l import RougeL
from fedprofit.evaluate.metrics.token_loss import TokenLoss

MOVED = {  # keys of earlier versions, and the metric and field that replace them
    "rouge_tokenizer": ("rouge_l", "tokenizer"),
    "exact_match": ("exact_match", "variant"),
}


def with_metric_settings(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Upgrade the section `evaluation` of an earlier version's result folder to the present keys.

    >>> with_metric_settings({"metrics": ["loss", "rouge_l"], "rouge_tokenizer": "unicode"})
    {'metrics': ['loss', {'kind': 'rouge_l', 'tokenizer': 'unicode'}]}
    """
    fields = {kind: {field: evaluation[key]} for key, (kind, field) in MOVED.items() if key in evaluation}
    if not fields:
        return evaluation
    metrics = [
        {"kind": one, **fields[one]} if isinstance(one, str) and one in fields else one
        for one in evaluation.get("metrics", ["loss", "rouge_l", "exact_match"])
    ]
    return {key: value for key, value in evaluation.items() if key not in MOVED} | {"metrics": metrics}


class EvaluationConfig(Section):
    """Metrics, clients and numbers of examples to score."""

    metrics: tuple[Metric, ...] = (Loss(), TokenLoss(), RougeL(), ExactMatch())
    """The metrics; a name is the metric of that kind with its defaults."""
    regime: Literal["new", "participating"] = "new"
    """The scored clients. new: the test clients, which took no part in training. participating: train
    clients, on their own test examples, on which no client trained."""
    participants: Positive | None = None
    """Train clients that are scored, drawn by seed; all if not given."""
    max_new_tokens: Positive = 128
    """Maximum tokens of each generated answer."""
    global_examples: Positive = 64
    """Examples of the global test set, drawn evenly from the tasks."""
    unseen_examples: Count = 32
    """Examples of the tasks that no client trains on."""
    generate: Literal["last", "best", "all"] = "last"
    """Evaluation points with generated text: the last; also the one with the least local validation loss over
    all clients; or all. Loss is scored at all points."""
    validation: bool = False
    """Also personalize the validation clients and score them like the test clients, on their own and their
    pool's test examples, in a separate table for the selection of settings."""

    @model_validator(mode="before")
    @classmethod
    def _names_moved_keys(cls, given: Any) -> Any:
        for key in MOVED.keys() & (given.keys() if isinstance(given, dict) else set()):
            kind, field = MOVED[key]
            raise ValueError(f"{key} is set in the metric. Write metrics: [{{kind: {kind}, {field}: ...}}]")
        return given

    @field_validator("metrics", mode="before")
    @classmethod
    def _name_stands_for_defaults(cls, given: Any) -> Any:
        if not isinstance(given, list | tuple):
            return given
        return tuple({"kind": one} if isinstance(one, str) else one for one in given)

    @model_validator(mode="after")
    def _participants_participate(self) -> Self:
        if self.participants and self.regime != "participating":
            raise ValueError("participants: only regime: participating scores train clients")
        return self

    @model_validator(mode="after")
    def _metrics_are_distinct(self) -> Self:
        names = [metric.name for metric in self.metrics]
        if not names or len(set(names)) < len(names):
            raise ValueError("metrics: list at least one, and give each a distinct name")
        for metric in self.metrics:
            if metric.name != metric.kind and metric.name in Metric.family.all_kinds():
                raise ValueError(f"metrics: {metric.name!r} is another metric's kind; rename {metric.kind!r}")
        return self
