"""Building blocks of the embedded tasks: groups of items, and the questions about each item.

All tasks of a group have the same input texts and differ only in the answers. Therefore the input does not
identify the task: only the definition, or a trained prompt, does.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fedprofit.core.errors import UserError


@dataclass(frozen=True)
class Task:
    """One question: a definition in the form of Super-NaturalInstructions, and how to answer it.

    `answer` takes the group's facts about an input and returns the accepted references, the usual one
    first.
    """

    name: str
    category: str
    definition: str
    answer: Callable[[Any], list[str]]


@dataclass(frozen=True)
class Group:
    """Tasks with the same inputs. `items()` maps each input text to its facts."""

    name: str
    items: Callable[[], Mapping[str, Any]]
    tasks: tuple[Task, ...]


def package(name: str) -> Any:
    """Import a package of the optional extra `lexicon`.

    Raises `UserError` if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"The data source 'lexicon' takes its facts from the Python package {name!r}, "
            "which is not installed. Run: pip install 'fedprofit[lexicon]'"
        ) from error


def locale(language: str) -> Any:
    """Return babel's names of territories, languages and currencies in a language.

    >>> locale("fr").territories["DE"]
    'Allemagne'
    """
    return package("babel").Locale(language)
