"""YAML configurations: strict reading, overrides, and writing that reads back equal."""

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

from fedprofit.config.errors import explain, foreign, shown, value_at
from fedprofit.config.run import Config
from fedprofit.core import yaml_text
from fedprofit.core.errors import UserError, cut, first_line
from fedprofit.core.reading import read_yaml

Checked = TypeVar("Checked", bound=BaseModel)


def to_yaml(config: Config) -> str:
    """Return the complete configuration, defaults included, as YAML."""
    return yaml_text.dump(config.to_mapping())


def from_mapping(mapping: Any, place: str = "configuration") -> Config:
    """Validate a mapping as a run's configuration. UserError names `place`.

    >>> config = from_mapping({"name": "demo", "data": {"source": {"kind": "lexicon"}},
    ...     "training": {"algorithms": [{"kind": "fedsgd", "name": "fedsgd"}]}})
    >>> config.training.algorithms[0].batch_size
    16
    """
    return checked(Config, mapping, place)


def checked(model: type[Checked], mapping: Any, place: str) -> Checked:
    """Validate a mapping as a section of any type. UserError names `place`."""
    if not isinstance(mapping, dict):
        raise UserError(f"{place}: expected keys and values, found {shown(mapping)}. See configs/.")
    try:
        # Validate as JSON: types are strict, but lists become tuples.
        text = json.dumps(mapping, default=_plain)
    except _Foreign as error:
        key = next(key for key, leaf in _leaves(mapping) if leaf is error.args[0])
        raise UserError(f"{place}: {foreign(key, error.args[0])}.") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{place}: {first_line(error)}. Use text as keys and JSON types as values.") from None
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise UserError(explain(error, model, place, mapping)) from None


class _Foreign(Exception):
    """A Python value that no configuration can contain; its argument is the value."""


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
    """Yield the dotted key and value of each leaf."""
    left: list[tuple[str, Any]] = [("", mapping)]
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left += [(f"{key}.{name}" if key else str(name), leaf) for name, leaf in value.items()]
        elif isinstance(value, list | tuple):
            left += [(f"{key}.{number}", leaf) for number, leaf in enumerate(value)]
        else:
            yield key, value


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply `key.sub=value` overrides, and validate the result.

    Raises UserError for a missing file, invalid YAML, an unknown key (with the closest valid one), or a wrong
    type or range.
    """
    path = Path(path)
    mapping = read_yaml(path)
    if isinstance(mapping, dict) and {"axes", "base", "run"} & set(mapping):
        raise UserError(f"{path}: is a study of several runs. Run it with `fedprofit study {path}`.")
    defaults: Any = None
    if overrides:
        # An override can set one value of a section that the file omits. An incomplete file may become
        # complete through overrides, so errors are ignored here.
        with suppress(UserError):
            defaults = from_mapping(mapping).to_mapping()
    for override in overrides:
        override_value(mapping, override, defaults)
    return from_mapping(mapping, str(path))


def override_value(mapping: Any, override: str, defaults: Any = None) -> None:
    """Apply one override such as `training.rounds=3` or `training.algorithms.0.client.rate=0.1` in place.

    Missing sections are copied from `defaults`, the complete configuration, if given.

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
    """Set the value of a dotted key in place. UserError names `place`.

    Missing sections are copied from `defaults`, except those whose kind is set.
    """
    *parents, last = key.split(".")
    if not isinstance(mapping, dict):
        raise UserError(f"{place}: the configuration contains no keys and values to change.")
    is_default = False
    for parent in parents:
        position: int | str = int(parent) if isinstance(defaults, list) and parent.isdecimal() else parent
        defaults = value_at(defaults, [position])
        if isinstance(mapping, dict) and parent not in mapping and isinstance(defaults, dict | list):
            mapping[parent], is_default = deepcopy(defaults), True
        mapping = _child(mapping, parent, place)
    if isinstance(mapping, list):
        mapping[_index(mapping, last, place)] = value
        return
    if last == "kind" and is_default:  # the default keys belong to another kind
        mapping.clear()
    mapping[last] = value


def _child(mapping: Any, key: str, place: str) -> Any:
    if isinstance(mapping, list):
        return mapping[_index(mapping, key, place)]
    child = mapping.get(key)
    if child is None:
        child = mapping[key] = {}
    if not isinstance(child, dict | list):
        raise UserError(f"{place}: {key!r} has the value {shown(child)}, so nothing can be set below it.")
    return child


def _index(items: list[Any], key: str, place: str) -> int:
    if not key.isdecimal() or int(key) >= len(items):
        raise UserError(f"{place}: {cut(key)!r} is not a position in a list of {len(items)} (from 0).")
    return int(key)


def changed(first: dict[str, Any], other: dict[str, Any], above: str = "") -> list[str]:
    """List the keys whose values differ. Lists are compared as one value.

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
