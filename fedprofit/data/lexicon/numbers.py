"""Numbers: the same digits in words of four languages (num2words) and in other notations."""

from functools import cache

from fedprofit.data.lexicon.task import Group, Task, package

ROMAN = (
    *((1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L")),
    *((40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")),
)


@cache
def numbers() -> dict[str, int]:
    """Map decimal digits to their number: every seventh, so that all lengths and final digits occur."""
    return {str(number): number for number in range(3, 3999, 7)}


def roman(number: int) -> str:
    """Write a number from 1 to 3999 in Roman numerals.

    >>> roman(1944)
    'MCMXLIV'
    """
    written = ""
    for value, letters in ROMAN:
        count, number = divmod(number, value)
        written += letters * count
    return written


def in_words(number: int, language: str) -> list[str]:
    """Write a number in words; English also without "and", as is usual in America.

    >>> in_words(342, "en")
    ['three hundred and forty-two', 'three hundred forty-two']
    """
    words = str(package("num2words").num2words(number, lang=language)).replace(",", "")
    shorter = words.replace(" and ", " ") if language == "en" else words
    return [words] if shorter == words else [words, shorter]


def _naming(language: str, english_name: str) -> Task:
    return Task(
        name=f"number_{english_name.lower()}",
        category="number words",
        definition="In this task, you are given a number in digits. "
        f"Write the number out in {english_name} words, in small letters.",
        answer=lambda number: in_words(number, language),
    )


_GIVEN = "In this task, you are given a number in digits."
GROUPS = (
    Group(
        "numbers",
        numbers,
        (
            _naming("en", "English"),
            _naming("fr", "French"),
            _naming("de", "German"),
            _naming("es", "Spanish"),
            Task(
                "number_roman",
                "number notation",
                f"{_GIVEN} Write it in Roman numerals, in capital letters.",
                lambda number: [roman(number)],
            ),
            Task(
                "number_binary",
                "number notation",
                f"{_GIVEN} Write it in the binary system, as ones and zeros with no leading zero.",
                lambda number: [f"{number:b}"],
            ),
            Task(
                "number_digit_sum",
                "number notation",
                f"{_GIVEN} Add up its digits and answer with the sum, in digits.",
                lambda number: [str(sum(int(digit) for digit in str(number)))],
            ),
        ),
    ),
)
