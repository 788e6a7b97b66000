"""ROUGE-L and exact match as Super-NaturalInstructions' evaluation defines them, 0 to 100."""

import string
from collections.abc import Sequence
from functools import cache
from typing import Any


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """Return the ROUGE-L F-measure times 100, the best over the references (Lin 2004).

    Scored by the `rouge-score` package with its stemmer.

    >>> rouge_l("the capital of France", ["Paris", "capital of France"])
    85.71428571428571
    """
    scores = [_scorer().score(reference, prediction)["rougeL"].fmeasure for reference in references]
    return 100 * float(max(scores))


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """Return 100 if the prediction equals a reference after normalization, else 0.

    >>> exact_match(" paris. ", ["Paris"]), exact_match("Lyon", ["Paris"])
    (100.0, 0.0)
    """
    return 100.0 * any(normalized(prediction) == normalized(reference) for reference in references)


def normalized(text: str) -> str:
    """Lower-case a text and drop punctuation and surplus white space.

    >>> normalized("  The  U.S.A.! ")
    'the usa'
    """
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(kept.split())


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)
