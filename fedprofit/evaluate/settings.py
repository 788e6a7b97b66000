"""The configuration's part on what is scored."""

from typing import Literal, Self

from pydantic import model_validator

from fedprofit.config.base import Count, Metric, Positive, Section


class EvaluationConfig(Section):
    """What is scored, and on how much."""

    metrics: tuple[Metric, ...] = ("loss", "rouge_l", "exact_match")
    # What ROUGE-L and exact match compare; `evaluate/rules.py` says what auto chooses, once for a data set.
    # rouge-score: words of a to z and 0 to 9, stemmed; unicode: words of any script, else the same.
    rouge_tokenizer: Literal["auto", "rouge-score", "unicode"] = "auto"
    # sni: without case and punctuation; strict: with both; numeric: numbers by value, all else as strict.
    exact_match: Literal["auto", "sni", "strict", "numeric"] = "auto"
    # new: the test clients, which took no part in training. participating: train clients, on test examples of
    # their own that no client trained on.
    regime: Literal["new", "participating"] = "new"
    participants: Positive | None = None  # train clients that are scored, drawn by seed; all if not given
    max_new_tokens: Positive = 128
    global_examples: Positive = 64
    unseen_examples: Count = 32
    # Text metrics at the last evaluation point; also at the one with the least local validation loss, over
    # all clients; or at all. Loss is scored at all.
    generate: Literal["last", "best", "all"] = "last"
    # Also personalize the validation clients and score them as the test clients are, on test examples of
    # their own and of their pool, into a table of its own: what a choice among settings may be made by.
    validation: bool = False

    @model_validator(mode="after")
    def _participants_participate(self) -> Self:
        if self.participants and self.regime != "participating":
            raise ValueError("participants: only regime: participating scores train clients")
        return self

    @model_validator(mode="after")
    def _metrics_are_distinct(self) -> Self:
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise ValueError("metrics: name at least one, and each once")
        return self
