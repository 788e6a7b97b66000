"""ROUGE-L and exact match, 0 to 100, as in the evaluation of Super-NaturalInstructions, and variants.

The variant of a run is resolved once for its data set (see `rules.py`).
"""

import re
import string
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any
from unicodedata import normalize


def rouge_l(prediction: str, references: Sequence[str], tokenizer: str = "rouge-score") -> float:
    """Return the ROUGE-L F-measure times 100, the best over the references (Lin 2004).

    Args:
        prediction: the answer.
        references: at least one.
        tokenizer: "rouge-score", the package's own with its stemmer, for a to z and 0 to 9 only; or "unicode"
            (see `words.py`).

    >>> rouge_l("the capital of France", ["Paris", "capital of France"])
    85.71428571428571
    >>> rouge_l("fällt", ["füllt"]), rouge_l("fällt", ["füllt"], "unicode")
    (100.0, 0.0)
    """
    scorer = _scorer(tokenizer)
    return 100 * float(
        max(scorer.score(reference, prediction)["rougeL"].fmeasure for reference in references)
    )


def exact_match(prediction: str, references: Sequence[str], variant: str = "sni") -> float:
    """Return 100 if the prediction equals a reference, else 0; an empty one equals nothing.

    Args:
        prediction: the answer.
        references: at least one.
        variant: definition of equality.
            "sni": texts without case, punctuation and surplus white space; if one consists of punctuation
            only, texts without surplus white space.
            "strict": texts in Unicode's NFC without surplus white space; case and punctuation count.
            "numeric": numbers by value, all else as "strict".

    >>> exact_match(" paris. ", ["Paris"]), exact_match("Lyon", ["Paris"])
    (100.0, 0.0)
    >>> exact_match("1.50", ["1.5"], "strict"), exact_match("1.50", ["1.5"], "numeric")
    (0.0, 100.0)
    """
    compared = COMPARED[variant]
    answer = compared(prediction)
    return 100.0 * any(answer != "" and answer == compared(reference) for reference in references)


def normalized(text: str) -> str:
    """Lower-case a text and drop punctuation and surplus white space.

    >>> normalized("  The  U.S.A.! ")
    'the usa'
    """
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(kept.split())


def strict(text: str) -> str:
    """Return a text in NFC without surplus white space.

    >>> strict("  C++  17 ")
    'C++ 17'
    """
    return " ".join(normalize("NFC", text).split())


def number(text: str) -> Decimal | None:
    """Parse a number with a decimal point and thousands separated by commas or spaces; None if it is invalid.

    Only non-breaking or thin spaces separate thousands: a plain space may separate two numbers.

    >>> number("−1,234.50"), number("1e3"), number("1,5"), number("5 km")
    (Decimal('-1234.50'), Decimal('1E+3'), None, None)
    """
    plain = text.strip().translate(SIGNS)
    if not NUMBER.fullmatch(plain):
        return None
    try:
        return Decimal(plain.replace(",", ""))
    except InvalidOperation:  # the exponent is out of range
        return None


SIGNS = str.maketrans("\u2212\ufe63\uff0d\u00a0\u202f\u2009", "---,,,")  # minus signs; spaces in numbers
NUMBER = re.compile(r"[+-]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")


def _sni(text: str) -> str:
    # Normalizing removes punctuation: texts of only punctuation are compared without normalizing.
    return normalized(text) or " ".join(text.split())


def _numeric(text: str) -> str | Decimal:
    value = number(text)
    return strict(text) if value is None else value


COMPARED: dict[str, Callable[[str], str | Decimal]] = {"sni": _sni, "strict": strict, "numeric": _numeric}


@cache
def _scorer(tokenizer: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    from fedprofit.evaluate.words import UnicodeTokenizer

    if tokenizer == "unicode":
        return RougeScorer(["rougeL"], tokenizer=UnicodeTokenizer())
    return RougeScorer(["rougeL"], use_stemmer=True)
