"""Which variants of ROUGE-L and exact match a run uses: decided once for its data set, and recorded.

The rule of `auto`:

- ROUGE-L: the tokenizer "rouge-score" where it can read all targets of the data set, else "unicode". It can
  read a target that holds a letter or digit of a to z and 0 to 9 (whatever its case) and no letter, digit or
  combining mark besides; punctuation and symbols do not matter. Of Super-NaturalInstructions, whose own
  evaluation this is, half of the targets suffice.
- Exact match: "sni" for Super-NaturalInstructions and the lexicon, "strict" for users' tables and data sets
  of the hub.

All references of all rows count, also of rows that no client has, so that neither the partition nor the seed
of the clients matters.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fedprofit.data.sources.base import SourceSettings
from fedprofit.evaluate.settings import EvaluationConfig

SCORING = "scoring"  # the section of environment.json and summary.json that has the rules
MEANING = {
    "sni": "ignores case and punctuation",
    "strict": "case and punctuation count",
    "numeric": "numbers by value; else case and punctuation count",
}


@dataclass(frozen=True)
class Rules:
    """How answers are compared with references; by default as earlier versions always did."""

    rouge_tokenizer: str = "rouge-score"
    exact_match: str = "sni"
    targets: int = 0  # of the data set
    unread_targets: int = 0  # those of them that rouge-score's tokenizer cannot read, or not as a whole

    def to_mapping(self) -> dict[str, Any]:
        """Return the rules as plain values."""
        return asdict(self)

    def variant(self, metric: str) -> str:
        """Return what tells one way to compute a metric from another; "" where there is but one."""
        return {"rouge_l": self.rouge_tokenizer, "exact_match": self.exact_match}.get(metric, "")

    def describe(self, metric: str, at_most: bool = False) -> str:
        """Say which variant of a metric was used, in a sentence without period; "" where there is but one.

        `at_most` says that other data sets had fewer targets that cannot be read.

        >>> Rules("unicode", "strict").describe("rouge_l")
        'ROUGE-L: tokenizer unicode'
        >>> Rules(targets=9, unread_targets=2).describe("rouge_l")
        'ROUGE-L: tokenizer rouge-score, which cannot read all of 2 of the 9 targets'
        >>> Rules("unicode", "strict").describe("exact_match")
        'Exact match: strict (case and punctuation count)'
        """
        if metric == "exact_match":
            return f"Exact match: {self.exact_match} ({MEANING.get(self.exact_match, 'unknown')})"
        if metric != "rouge_l":
            return ""
        said = f"ROUGE-L: tokenizer {self.rouge_tokenizer}"
        if self.rouge_tokenizer != "rouge-score" or not self.unread_targets:
            return said
        count = f"{'up to ' * at_most}{self.unread_targets} of the {self.targets} targets"
        return f"{said}, which cannot read all of {count}"


EARLIER = Rules()


def choose_rules(settings: EvaluationConfig, source: SourceSettings, targets: int, unread: int) -> Rules:
    """Decide what the settings leave open.

    Args:
        settings: how to score.
        source: where the data set comes from.
        targets: how many references it has.
        unread: how many of them `rouge-score` cannot read (see `ExampleStore.unread_targets`).

    >>> from fedprofit.data.sources.table import TableSource
    >>> own = TableSource(path="own.csv")
    >>> choose_rules(EvaluationConfig(), own, targets=100, unread=1).rouge_tokenizer
    'unicode'
    """
    tokenizer, variant = settings.rouge_tokenizer, settings.exact_match
    if tokenizer == "auto":
        most = targets * source.unread_share
        tokenizer = "unicode" if unread > most else "rouge-score"
    if variant == "auto":
        variant = "strict" if source.is_users_own else "sni"
    return Rules(tokenizer, variant, targets, unread)


def recorded_rules(record: Mapping[str, Any]) -> Rules:
    """Read the rules of a run's environment; of earlier versions, which recorded none, what they did.

    >>> recorded_rules({"versions": {}}) == Rules()
    True
    """
    found = record.get(SCORING, {})
    return Rules(**{name: found[name] for name in Rules.__dataclass_fields__ if name in found})
