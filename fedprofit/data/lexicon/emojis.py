"""Emojis: the name of the same picture in four languages, from the package emoji (Unicode CLDR)."""

import re
from collections.abc import Mapping
from functools import cache

from fedprofit.data.lexicon.task import Group, Task, package

LANGUAGES = {"en": "English", "fr": "French", "de": "German", "es": "Spanish"}
MOST_WORDS = 5


@cache
def emojis() -> dict[str, Mapping[str, str]]:
    """Map each emoji to its names by language.

    Single pictures only (no flag, skin tone or joined sequence), with a name in every language of a
    few plain words.
    """
    emoji = package("emoji")
    emoji.config.load_language(list(LANGUAGES))
    complete = emoji.STATUS["fully_qualified"]
    found = {}
    for picture, record in emoji.EMOJI_DATA.items():
        names = {code: _plain(record.get(code, "")) for code in LANGUAGES}
        if record["status"] == complete and _is_single(picture) and all(names.values()):
            found[picture] = names
    return dict(sorted(found.items()))


def nouns() -> list[str]:
    """List the names that are one lower-case English word, alphabetically; not all are nouns."""
    return sorted({names["en"] for names in emojis().values() if re.fullmatch("[a-z]+", names["en"])})


def _is_single(picture: str) -> bool:
    return len(picture.rstrip("\ufe0f")) == 1


def _plain(name: str) -> str:
    """Return the name in words, or "" if it has brackets, digits or many words."""
    words = name.strip(":").replace("_", " ").split()
    return (
        " ".join(words)
        if len(words) <= MOST_WORDS and not re.search(r"[()\d:“”«»/]", name.strip(":"))
        else ""
    )


def _naming(language: str, english_name: str) -> Task:
    return Task(
        name=f"emoji_{english_name.lower()}",
        category="symbols",
        definition=f"In this task, you are given an emoji. Answer with its name in {english_name}: "
        "a few words that say what the picture shows.",
        answer=lambda names: [names[language]],
    )


GROUPS = (Group("emojis", emojis, tuple(_naming(code, name) for code, name in LANGUAGES.items())),)
