"""ROUGE-L and exact match, compared with their definitions: Lin 2004, and the evaluation of SNI."""

import json
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
    """Exact match of the published evaluation of Super-NaturalInstructions."""

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


IN_ANY_SCRIPT = [
    "蘋果 和香蕉", "コーヒーを飲む", "मैं हिन्दी बोलता हूँ", "Это яблоко", "هذه تفاحة", "Käse fällt", "ภาษาไทย ๓",
    "사과와 배", "e\u0301te\u0301", "½", "٣", "<", "$ ...", "😀", "❤️", "🇩🇪", "\u0301", "\u200d", "_", "。",
]  # fmt: skip


@pytest.mark.parametrize("text", IN_ANY_SCRIPT)
def test_identical_text_scores_100_in_any_script(text):
    assert rouge_l(text, [text], "unicode") == 100.0
    assert rouge_l(text, ["nothing of it", text], "unicode") == 100.0
    assert rouge_l(text, ["nothing of it"], "unicode") == 0.0
    for variant in ("sni", "strict", "numeric"):
        assert exact_match(text, [text], variant) == 100.0


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("fällt", "füllt", 0),
        ("FÄLLT!", "fa\u0308llt", 100),
        ("कि", "की", 0),  # a consonant with one vowel sign or another
        ("苹果和梨", "苹果和香蕉", 100 * 2 * 3 / 9),  # three of four and of five characters
        ("AI技术2024", "ai 技 术 2024", 100),
        ("Straße", "STRASSE", 100),
        ("<", ">", 0),
        ("❤️", "☀️", 0),
        ("می\u200cخواهم", "میخواهم", 100),  # a joiner is invisible
        ("the dogs füllt", "the dog fällt", 100 * 2 / 3),  # English words are still stemmed
        (" ", " ", 0),
    ],
)
def test_unicode_words_keep_their_letters_and_marks(prediction, reference, score):
    assert rouge_l(prediction, [reference], "unicode") == pytest.approx(score)


def test_latin_texts_score_equally_with_both_tokenizers():
    texts = [(p, r) for p, r in CASES + random_cases() if "".join([p, *r]).isascii()]
    assert len(texts) > 20
    for prediction, references in texts:
        assert rouge_l(prediction, references, "unicode") == rouge_l(prediction, references)


@pytest.mark.parametrize(
    ("prediction", "reference", "equal"),
    [
        ("1.5", "15", "sni"),
        ("-5", "5", "sni"),
        ("C++", "C#", "sni"),
        ("paris.", "Paris", "sni"),
        ("<", ">", ""),
        ("", "", ""),
        ("", "$", ""),
        (" ", "[]", ""),
        ("a  b\u00a0c\n", "a b c", "sni strict numeric"),
        ("é", "e\u0301", "strict numeric"),
        ("1.50", "1.5", "numeric"),
        ("−5", "-5", "numeric"),
        ("1,234,567", "1234567.0", "numeric"),
        ("1\u202f234", "1234", "numeric"),
        ("1e3", "+1000", "numeric"),
        ("0", "-0", "sni numeric"),
        ("१५", "15", "numeric"),
        ("10000000000000001", "10000000000000000", ""),
        ("1 234", "1234", ""),
        ("1,5", "1.5", "sni"),
        ("12,34", "1234", "sni"),
        ("1_0", "10", "sni"),
        ("nan", "NaN", "sni"),
        ("5 km", "5.0 km", ""),
        ("1e99999999999999999999", "1e99999999999999999998", ""),
    ],
)
def test_exact_match_variants_define_equality(prediction, reference, equal):
    found = {name for name in ("sni", "strict", "numeric") if exact_match(prediction, [reference], name)}
    assert found == {*equal.split()}


def test_shared_targets_score_100_with_themselves(shared_data):
    lines = (shared_data / "cases" / "cjk" / "data.jsonl").read_text("utf-8").splitlines()
    targets = [json.loads(line)["target"] for line in lines]
    assert all(rouge_l(target, [target], "unicode") == 100.0 for target in targets)
