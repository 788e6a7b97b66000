"""Dates: the weekday, and other notations of the same day (months and patterns from babel)."""

from datetime import date, timedelta
from functools import cache

from fedprofit.data.lexicon.task import Group, Task, package


@cache
def dates() -> dict[str, date]:
    """Map dates in ISO form to themselves: every 37th day from 1985 on, so that all weekdays occur."""
    days = (date(1985, 1, 4) + timedelta(days=37 * count) for count in range(500))
    return {day.isoformat(): day for day in days}


def _written(day: date, language: str) -> list[str]:
    return [str(package("babel.dates").format_date(day, format="long", locale=language))]


_GIVEN = "In this task, you are given a date as year, month and day, separated by hyphens."
GROUPS = (
    Group(
        "dates",
        dates,
        (
            Task(
                "date_weekday",
                "dates",
                f"{_GIVEN} Answer with the English name of the weekday on which it falls.",
                lambda day: [str(package("babel.dates").format_date(day, format="EEEE", locale="en"))],
            ),
            Task(
                "date_english",
                "dates",
                f"{_GIVEN} Write it the American way: the month's name, the day, a comma and the year.",
                lambda day: _written(day, "en_US"),
            ),
            Task(
                "date_french",
                "dates",
                f"{_GIVEN} Write it in French: the day, the month's French name and the year.",
                lambda day: _written(day, "fr"),
            ),
            Task(
                "date_german",
                "dates",
                f"{_GIVEN} Write it in German: the day with a period, the month's German name and the year.",
                lambda day: _written(day, "de"),
            ),
            Task(
                "date_week_later",
                "dates",
                f"{_GIVEN} Answer with the date that comes exactly seven days later, in the same form.",
                lambda day: [(day + timedelta(days=7)).isoformat()],
            ),
        ),
    ),
)
