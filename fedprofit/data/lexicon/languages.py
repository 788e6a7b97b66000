"""Languages: the code and the names in other languages, from pycountry (ISO 639) and babel (Unicode CLDR)."""

from functools import cache

from fedprofit.data.lexicon.task import Group, Task, locale, package

OTHERS = {"fr": "French", "de": "German", "es": "Spanish"}
RETIRED = frozenset(["sh"])


@cache
def languages() -> dict[str, str]:
    """Map the English name of each living language to its code.

    Only languages that the CLDR has a locale of or that have a code of two letters, whose names carry
    no remark in brackets and are not the same in all four languages.
    """
    english = locale("en").languages
    written = set(package("babel.localedata").locale_identifiers())
    return {
        english[code]: code
        for code in sorted(english)
        if (len(code) == 2 or code in written)
        and _is_living(code)
        and _differs([english[code], *_names(code)])
    }


def _is_living(code: str) -> bool:
    known = package("pycountry").languages
    record = known.get(alpha_2=code) if len(code) == 2 else known.get(alpha_3=code)
    return record is not None and record.type == "L" and code not in RETIRED


def _names(code: str) -> list[str]:
    return [locale(other).languages.get(code, "") for other in OTHERS]


def _differs(names: list[str]) -> bool:
    return all(name and "(" not in name for name in names) and len({name.lower() for name in names}) > 1


def _translation(language: str, english_name: str) -> Task:
    return Task(
        name=f"language_{english_name.lower()}",
        category="translation",
        definition="In this task, you are given the English name of a language. "
        f"Answer with what this language is called in {english_name}.",
        answer=lambda code: [locale(language).languages[code]],
    )


GROUPS = (
    Group(
        "languages",
        languages,
        (
            Task(
                "language_code",
                "codes",
                "In this task, you are given the English name of a language. Answer with its ISO 639 code in "
                "small letters: that of two letters, or that of three letters if there is no shorter one.",
                lambda code: [code],
            ),
            *(_translation(code, english_name) for code, english_name in OTHERS.items()),
        ),
    ),
)
