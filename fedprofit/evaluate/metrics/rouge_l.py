"""ROUGE-L in any script."""

from typing import Literal, Self

from fedprofit.evaluate.facts import DataFacts, Variant
from fedprofit.evaluate.metrics.base import Answer, Metric
from fedprofit.evaluate.text import rouge_l


class RougeL(Metric, kind="rouge_l", paper="Lin 2004"):
    """ROUGE-L F-measure of an answer, the best over the references."""

    title = "ROUGE-L"
    scale = "0 to 100"
    bounds = (0.0, 100.0)
    rank = 0

    tokenizer: Literal["auto", "rouge-score", "unicode"] = "auto"
    """rouge-score: words of a to z and 0 to 9, stemmed. unicode: words of any script, else the same. auto:
    rouge-score if it can read all targets of the data set; for Super-NaturalInstructions, whose own
    evaluation it is, if it can read half of them. It can read a target that has a letter or digit of a to z
    and 0 to 9 (in upper or lower case), and no other letter, digit or combining mark."""

    def score(self, answer: Answer) -> float:
        """Return the F-measure times 100."""
        tokenizer = "rouge-score" if self.tokenizer == "auto" else self.tokenizer
        return rouge_l(answer.text or "", answer.references, tokenizer)

    def resolve(self, data: DataFacts) -> Self:
        """Choose the tokenizer.

        >>> RougeL().resolve(DataFacts("table", targets=100, unread_targets=1)).tokenizer
        'unicode'
        """
        if self.tokenizer != "auto":
            return self
        most = data.targets * data.unread_share
        tokenizer = "unicode" if data.unread_targets > most else "rouge-score"
        return self.model_copy(update={"tokenizer": tokenizer})

    def describe(self, data: DataFacts) -> Variant:
        """Name the tokenizer, and how many targets it cannot read.

        >>> RougeL(tokenizer="rouge-score").describe(DataFacts("sni", 9, 2)).describe()
        'ROUGE-L: tokenizer rouge-score, which cannot read all of 2 of the 9 targets'
        """
        unread = data.unread_targets if self.tokenizer == "rouge-score" else 0
        return Variant(
            name=self.tokenizer,
            text=f"{self.full_title}: tokenizer {self.tokenizer}",
            limit="which cannot read all of {count}",
            affected=unread,
            targets=data.targets,
        )
