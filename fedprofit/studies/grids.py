"""Grids in a configuration: `{grid: [...]}` expands an entry, `{pick: [...]}` expands it into trials."""

from copy import deepcopy
from itertools import product
from math import prod
from typing import Any

from fedprofit.core.errors import UserError, cut

GRID, PICK = "grid", "pick"
MOST = 1000  # maximum entries from one entry
GRIDS_IN = (("training", "algorithms"), ("personalization",))  # lists of entries that may contain grids


def expand_grids(mapping: dict[str, Any], place: str) -> dict[str, Any]:
    """Expand each entry with `{grid: [...]}` into one entry per combination of values.

    `{pick: [...]}`, only in algorithms and baselines, expands an entry into trials of its name.

    >>> rates = {"name": "tune", "client": {"rate": {"grid": [0.01, 0.1]}}}
    >>> [entry["name"] for entry in expand_grids({"personalization": [rates]}, "")["personalization"]]
    ['tune-rate0.01', 'tune-rate0.1']
    """
    result = deepcopy(mapping)
    for *parents, last in GRIDS_IN:
        section: Any = result
        for key in parents:
            section = section.get(key, {}) if isinstance(section, dict) else {}
        entries = section.get(last) if isinstance(section, dict) else None
        if isinstance(entries, list):
            section[last] = [made for entry in entries for made in _expanded(entry, GRID, place)]
            if last == "algorithms":
                section[last] = [made for entry in section[last] for made in _algorithm_trials(entry, place)]
    baselines = result.get("baselines")
    for name in list(baselines) if isinstance(baselines, dict) else ():
        assert isinstance(baselines, dict)
        if isinstance(baselines[name], dict):
            trials = _trials_of(baselines[name], place)
            baselines[name] = trials if len(trials) > 1 else trials[0]
    return result


def _algorithm_trials(entry: Any, place: str) -> list[Any]:
    """Expand an algorithm with `{pick: [...]}` into trials of the same method."""
    trials = _trials_of(entry, place)
    if isinstance(entry, dict) and len(trials) > 1:
        for trial in trials:
            trial.setdefault("method", entry.get("name"))
    return trials


def _trials_of(entry: Any, place: str) -> list[Any]:
    """Expand an entry with `{pick: [...]}`; a single trial keeps the entry's name."""
    trials = _expanded(entry, PICK, place)
    if len(trials) == 1 and isinstance(entry, dict) and "name" in entry:
        trials[0]["name"] = entry["name"]
    return trials


def _expanded(entry: Any, word: str, place: str) -> list[Any]:
    found = list(_grids(entry, word, ()))
    count = prod(len(grid) for _, grid in found)
    if count > MOST:
        name = cut(str(entry.get("name", "an entry")))
        raise UserError(
            f"{place}: {name}: its {word}s make {count} entries, more than {MOST}. Give them fewer values."
        )
    made = []
    for values in product(*[grid for _, grid in found]):
        one = deepcopy(entry)
        for (keys, _), value in zip(found, values, strict=True):
            section = one
            for key in keys[:-1]:
                section = section[key]
            section[keys[-1]] = value
            one["name"] = f"{one.get('name', '')}-{keys[-1]}{value}"
        made.append(one)
    if not made:
        name = cut(str(entry.get("name", "an entry")))
        raise UserError(f"{place}: {name}: a {word} is empty; give it values.")
    return made


def _grids(entry: Any, word: str, keys: tuple[Any, ...]) -> Any:
    """Yield the path of keys and the values of each `{word: [...]}` in an entry."""
    if isinstance(entry, dict):
        if set(entry) == {word} and isinstance(entry[word], list):
            yield keys, entry[word]
            return
        for key, value in entry.items():
            yield from _grids(value, word, (*keys, key))
