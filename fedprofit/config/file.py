"""Configurations as YAML files: read strictly, changed by overrides, written so that they read back equal."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from datetime import date
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fedprofit.config.errors import explain, foreign, held, shown
from fedprofit.config.run import Config
from fedprofit.core import yaml_text
from fedprofit.core.errors import UserError, cut, first_line
from fedprofit.core.reading import read_yaml

Checked = TypeVar("Checked", bound=BaseModel)


def to_yaml(config: Config) -> str:
    """Return the whole configuration, defaults included, as YAML that reads back equal."""
    return yaml_text.dump(config.to_mapping())


def from_mapping(mapping: Any, place: str = "configuration") -> Config:
    """Check a mapping and return a run's configuration; `place` is named in errors (UserError).

    >>> config = from_mapping({"name": "demo", "data": {"source": {"kind": "lexicon"}},
    ...     "training": {"algorithms": [{"kind": "fedsgd", "name": "fedsgd"}]}})
    >>> config.training.algorithms[0].batch_size
    16
    """
    return checked(Config, mapping, place)


def checked(model: type[Checked], mapping: Any, place: str) -> Checked:
    """Check a mapping against any section's keys and types; `place` is named in errors (UserError)."""
    if not isinstance(mapping, dict):
        raise UserError(f"{place}: expected keys and values, found {shown(mapping)}. See configs/.")
    try:
        # Through JSON: strict types, yet a YAML list may become a tuple.
        text = json.dumps(mapping, default=_plain)
    except _Foreign as error:
        key = next(key for key, held in _leaves(mapping) if held is error.args[0])
        raise UserError(f"{place}: {foreign(key, error.args[0])}.") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{place}: {first_line(error)}. Give keys as text, and values as JSON has them."
        ) from None
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise UserError(explain(error, model, place, mapping)) from None


class _Foreign(Exception):
    """A value that no configuration holds; its argument."""


def _plain(value: Any) -> str | int | float | dict[str, Any]:
    """Return a value from Python as YAML would hold it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, os.PathLike):
        return str(os.fspath(value))
    if isinstance(value, date):
        return str(value)
    if isinstance(value, Integral | Real):  # numpy's
        return int(value) if isinstance(value, Integral) else float(value)
    raise _Foreign(value)


def _leaves(mapping: Any) -> Iterator[tuple[str, Any]]:
    """Yield each value that is neither keys and values nor a list, and its dotted key."""
    left: list[tuple[str, Any]] = [("", mapping)]
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left += [(f"{key}.{name}" if key else str(name), held) for name, held in value.items()]
        elif isinstance(value, list | tuple):
            left += [(f"{key}.{number}", held) for number, held in enumerate(value)]
        else:
            yield key, value


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply `key.sub=value` overrides, check everything.

    Raises UserError: no such file, not YAML, an unknown key (with the nearest valid one), a wrong
    type or range.
    """
    path = Path(path)
    mapping = read_yaml(path)
    if isinstance(mapping, dict) and {"axes", "base", "run"} & set(mapping):
        raise UserError(f"{path}: is a study of several runs. Run it with `fedprofit study {path}`.")
    defaults: Any = None
    if overrides:
        # One value of a section can be set where the file leaves the section out. A file that is not complete
        # yet may become so by what is set.
        with suppress(UserError):
            defaults = from_mapping(mapping).to_mapping()
    for override in overrides:
        override_value(mapping, override, defaults)
    return from_mapping(mapping, str(path))


def override_value(mapping: Any, override: str, defaults: Any = None) -> None:
    """Apply one `training.rounds=3` or `training.algorithms.0.client.rate=0.1` in place.

    Sections that the mapping leaves out are taken from `defaults`, the complete configuration, where given.

    >>> mapping = {"training": {"rounds": 10}}
    >>> override_value(mapping, "training.rounds=3"); mapping
    {'training': {'rounds': 3}}
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {cut(override)}: expected key=value, for example training.rounds=3.")
    try:
        value = yaml_text.load(text)
    except yaml_text.YamlProblem as problem:
        raise UserError(
            f"--set {cut(override)}: {cut(text)!r} is not a YAML value ({problem.reason}). Check its "
            "brackets and quotes."
        ) from None
    override_mapping(mapping, key, value, f"--set {cut(override)}", defaults)


def override_mapping(mapping: Any, key: str, value: Any, place: str, defaults: Any = None) -> None:
    """Set the value of a dotted key in place; `place` is named in errors (UserError).

    Sections that are absent are taken from `defaults`, without those whose kind is set.
    """
    *parents, last = key.split(".")
    if not isinstance(mapping, dict):
        raise UserError(f"{place}: the configuration holds no keys and values to change.")
    is_default = False
    for parent in parents:
        position: int | str = int(parent) if isinstance(defaults, list) and parent.isdecimal() else parent
        defaults = held(defaults, [position])
        if isinstance(mapping, dict) and parent not in mapping and isinstance(defaults, dict | list):
            mapping[parent], is_default = deepcopy(defaults), True
        mapping = _child(mapping, parent, place)
    if isinstance(mapping, list):
        mapping[_index(mapping, last, place)] = value
        return
    if last == "kind" and is_default:  # another kind has other keys
        mapping.clear()
    mapping[last] = value


def _child(mapping: Any, key: str, place: str) -> Any:
    if isinstance(mapping, list):
        return mapping[_index(mapping, key, place)]
    child = mapping.get(key)
    if child is None:
        child = mapping[key] = {}
    if not isinstance(child, dict | list):
        raise UserError(f"{place}: {key!r} holds the value {shown(child)}, so nothing can be set below it.")
    return child


def _index(items: list[Any], key: str, place: str) -> int:
    if not key.isdecimal() or int(key) >= len(items):
        raise UserError(f"{place}: {cut(key)!r} is not a position in a list of {len(items)} (from 0).")
    return int(key)


def changed(first: dict[str, Any], other: dict[str, Any], above: str = "") -> list[str]:
    """List the keys whose values differ; lists are compared as a whole.

    >>> changed({"seed": 0, "training": {"rounds": 6}}, {"seed": 0, "training": {"rounds": 9}})
    ['training.rounds: 6 -> 9']
    """
    found = []
    for key in dict.fromkeys([*first, *other]):
        a, b, name = first.get(key), other.get(key), f"{above}{key}"
        if isinstance(a, dict) and isinstance(b, dict):
            found += changed(a, b, f"{name}.")
        elif a != b:
            long = isinstance(a, list | dict) or isinstance(b, list | dict)
            found.append(name if long else f"{name}: {shown(a)} -> {shown(b)}")
    return found
