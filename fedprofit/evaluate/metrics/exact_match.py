"""Exact match, in variants."""

from typing import Literal, Self

from fedprofit.evaluate.facts import DataFacts, Variant
from fedprofit.evaluate.metrics.base import Answer, Metric
from fedprofit.evaluate.text import exact_match

MEANING = {
    "sni": "ignores case and punctuation",
    "strict": "case and punctuation count",
    "numeric": "numbers by value; else case and punctuation count",
}


class ExactMatch(Metric, kind="exact_match"):
    """Share of answers that equal a reference."""

    title = "Exact match"
    unit = "percent"
    bounds = (0.0, 100.0)
    rank = 1
    stands_in = "rouge_l"

    variant: Literal["auto", "sni", "strict", "numeric"] = "auto"
    """sni: ignores case and punctuation. strict: both count. numeric: numbers by value, all else as strict.
    auto: sni for Super-NaturalInstructions and the lexicon, strict for all other data."""

    def score(self, answer: Answer) -> float:
        """Return 100 or 0."""
        variant = "strict" if self.variant == "auto" else self.variant
        return exact_match(answer.text or "", answer.references, variant)

    def resolve(self, data: DataFacts) -> Self:
        """Choose the variant.

        >>> ExactMatch().resolve(DataFacts("lexicon", is_users_own=False)).variant
        'sni'
        """
        if self.variant != "auto":
            return self
        return self.model_copy(update={"variant": "strict" if data.is_users_own else "sni"})

    def describe(self, data: DataFacts) -> Variant:
        """Name the variant and its meaning.

        >>> ExactMatch(variant="strict").describe(DataFacts()).text
        'Exact match: strict (case and punctuation count)'
        """
        meaning = MEANING.get(self.variant, "unknown")
        return Variant(self.variant, f"{self.full_title}: {self.variant} ({meaning})")
