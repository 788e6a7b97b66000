"""Configurations as YAML files: read strictly, changed by overrides, written so that they read back equal."""

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from fedprofit.config import Config
from fedprofit.config_errors import explain, shown
from fedprofit.errors import UserError

Checked = TypeVar("Checked", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """PyYAML reads 1e-3 as text (YAML 1.1 wants a dot) and takes the last of equal keys; not here."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"the key {key.value!r} appears twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that `_Loader` would take for numbers."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


def to_yaml(config: Config) -> str:
    """Return the whole configuration, defaults included, as YAML that reads back equal."""
    return yaml.dump(config.to_mapping(), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


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
        text = json.dumps(mapping, default=lambda value: _plain(value, place))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{place}: {error}. Write keys as plain words and no anchors that refer back."
        ) from None
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise UserError(explain(error, model, place)) from None


def _plain(value: Any, place: str) -> str:
    """Return paths and dates as text; nothing else is made into a setting."""
    if isinstance(value, os.PathLike | date):
        return str(value)
    raise UserError(
        f"{place}: holds a value of type {type(value).__name__}, which no setting takes. Give text, numbers, "
        "lists and mappings; write data in memory to a file, for example with to_parquet, and name that in "
        "data.source.path."
    )


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply `key.sub=value` overrides, check everything.

    Raises UserError: no such file, not YAML, an unknown key (with the nearest valid one), a wrong
    type or range.
    """
    mapping = read_yaml(path)
    if isinstance(mapping, dict) and {"axes", "base", "run"} & set(mapping):
        raise UserError(f"{path}: is a study of several runs. Run it with `fedprofit study {path}`.")
    if overrides:
        # With the defaults written out, one value of a section can be set where the file leaves it out.
        # A file that is not whole yet may become so by what is set.
        with suppress(UserError):
            mapping = from_mapping(mapping).to_mapping()
    for override in overrides:
        override_value(mapping, override)
    return from_mapping(mapping, str(path))


def read_yaml(path: Path) -> Any:
    """Read a YAML file; UserError if it is not there, not text or not YAML, or names a key twice."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise UserError(
            f"{path}: cannot read the configuration ({error.strerror}). Check the path."
        ) from None
    except (UnicodeDecodeError, yaml.reader.ReaderError):
        raise UserError(f"{path}: holds characters that are no text. Save it as UTF-8.") from None
    except yaml.MarkedYAMLError as error:
        where = f" at line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(
            f"{path}: not valid YAML{where}: {error.problem}. Check the indentation and the quotes there."
        ) from None


def override_value(mapping: Any, override: str) -> None:
    """Apply one `training.rounds=3` or `training.algorithms.0.client.rate=0.1` in place.

    >>> mapping = {"training": {"rounds": 10}}
    >>> override_value(mapping, "training.rounds=3"); mapping
    {'training': {'rounds': 3}}
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override}: expected key=value, for example training.rounds=3.")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise UserError(
            f"--set {override}: {text!r} is not a YAML value. Check its brackets and quotes."
        ) from None
    override_mapping(mapping, key, value, f"--set {override}")


def override_mapping(mapping: Any, key: str, value: Any, place: str) -> None:
    """Set the value of a dotted key in place; `place` is named in errors (UserError)."""
    *parents, last = key.split(".")
    if not isinstance(mapping, dict):
        raise UserError(f"{place}: the configuration holds no keys and values to change.")
    for parent in parents:
        mapping = _child(mapping, parent, place)
    if isinstance(mapping, list):
        mapping[_index(mapping, last, place)] = value
    else:
        mapping[last] = value


def _child(mapping: Any, key: str, place: str) -> Any:
    if isinstance(mapping, list):
        return mapping[_index(mapping, key, place)]
    child = mapping.get(key)
    if child is None:
        child = mapping[key] = {}
    if not isinstance(child, dict | list):
        raise UserError(f"{place}: {key!r} holds the value {child!r}, so nothing can be set below it.")
    return child


def _index(items: list[Any], key: str, place: str) -> int:
    if not key.isdecimal() or int(key) >= len(items):
        raise UserError(f"{place}: {key!r} is not a position in a list of {len(items)} (from 0).")
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
