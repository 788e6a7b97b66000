"""ROUGE-L and exact match against their definitions written out: Lin 2004, and SNI's own evaluation."""

import re
import string

import numpy as np
import pytest
from nltk.stem.porter import PorterStemmer

from fedprofit.evaluate.text import exact_match, normalized, rouge_l

STEM = PorterStemmer().stem


def words(text):
    """Google's tokenization: letters a to z and digits; words of more than three letters are stemmed."""
    return [STEM(word) if len(word) > 3 else word for word in re.findall(r"[a-z0-9]+", text.lower())]


def longest_common_subsequence(a, b):
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    return table[-1, -1]


def lin_2004(prediction, reference):
    a, b = words(prediction), words(reference)
    common = longest_common_subsequence(a, b)
    if not common:
        return 0.0
    precision, recall = common / len(a), common / len(b)
    return 100 * 2 * precision * recall / (precision + recall)


def sni_normalize(text):
    """As the published evaluation of Super-NaturalInstructions has it."""

    def white_space_fix(text):
        return " ".join(text.split())

    def remove_punc(text):
        return "".join(ch for ch in text if ch not in set(string.punctuation))

    return white_space_fix(remove_punc(text.lower()))


CASES = [
    ("the running dogs", ["the dog runs", "a cat"]),
    ("Paris", ["paris"]),
    ("", ["Paris"]),
    ("...", ["Paris"]),
    ("b a c d", ["a b c d e"]),
    ("12,345 km", ["12345 km", "12 345km"]),
    ("Côte d'Ivoire", ["Cote d'Ivoire"]),
    ("yes. \n yes", ["YES yes"]),
    ("x", ["y", "z", "x x x"]),
]
VOCABULARY = ["the", "houses", "house", "running", "run", "42", "U.S.A.", "élan", "-", "of"]


def random_cases():
    draw = np.random.default_rng(0)

    def text():
        return " ".join(draw.choice(VOCABULARY, draw.integers(1, 9)))

    return [(text(), [text() for _ in range(draw.integers(1, 4))]) for _ in range(100)]


@pytest.mark.parametrize("cases", [CASES, random_cases()], ids=["by hand", "random"])
def test_both_scores_equal_their_definitions(cases):
    for prediction, references in cases:
        expected = max(lin_2004(prediction, reference) for reference in references)
        assert rouge_l(prediction, references) == pytest.approx(expected), (prediction, references)
        exact = max(sni_normalize(prediction) == sni_normalize(reference) for reference in references)
        assert exact_match(prediction, references) == 100.0 * exact
        assert normalized(prediction) == sni_normalize(prediction)
    if len(cases) > 50:
        assert len({rouge_l(*case) for case in cases}) > 20


def test_numbers_worked_out_by_hand():
    # Stems: the run dog / the dog run: two of three in order.
    assert rouge_l("the running dogs", ["the dog runs"]) == pytest.approx(200 / 3)
    assert rouge_l("a b", ["a b c d"]) == pytest.approx(100 * 2 * 0.5 / 1.5)
    assert exact_match("The U.S.A.", ["the usa"]) == 100.0
    assert exact_match("a b", ["ab"]) == 0.0
    assert exact_match("é", ["e"]) == 0.0
