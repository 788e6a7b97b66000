"""A study: a configuration, axes that expand it into runs, and grids that expand the settings of a run.

    name: rates
    base: ../configs/sni.yaml             # a run's configuration or another study, relative to this file
    run:                                  # changes of it
      personalization:
        - {name: tune, steps: 20, client: {rate: {grid: [0.003, 0.03]}}}   # two settings of one run
    axes:                                 # every combination is a run
      seed: [0, 1, 2]
      heterogeneity:                      # named sets of changes
        task: {data.partition.kind: task}
        iid: {data.partition.kind: iid}

The settings of a run share its federated training and its baselines, which are computed once. In an algorithm
or a baseline, `{pick: [...]}` makes trials instead: each run trains all of them, and its validation clients
select one (see `trials.py`). A run is identified by its configuration, so that it is never repeated.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from fedprofit.config.base import Name, Positive, Section
from fedprofit.config.errors import shown
from fedprofit.config.file import checked, from_mapping, override_mapping, override_value
from fedprofit.config.run import Config
from fedprofit.core.errors import UserError, cut
from fedprofit.core.reading import read_yaml
from fedprofit.runs.identity import identity
from fedprofit.runs.trials import check_trials
from fedprofit.studies.grids import expand_grids

SEED_ADVICE = (
    "Let the axis named seed set the run's seed. Give an axis that changes other keys another name, with "
    "named sets of changes."
)

Value = str | int | float | bool | None
Point = tuple[Value, dict[str, Any]]  # a value of an axis, and its changes of a configuration


class Study(Section):
    """A study file."""

    name: Name
    base: str | None = None
    run: dict[str, Any] = Field(default_factory=dict)
    axes: dict[str, list[Any] | dict[str, dict[str, Any]]] = Field(default_factory=dict)
    most_runs: Positive = 100  # more runs than these need `--yes`

    @field_validator("axes")
    @classmethod
    def _axes_have_values(cls, axes: dict[str, Any]) -> dict[str, Any]:
        for name, values in axes.items():
            if not values:
                raise ValueError(f"the axis {cut(name)!r} is empty; give it values or omit it")
        return axes

    @property
    def changed_keys(self) -> list[str]:
        """The keys of the configuration that the axes change."""
        changes = [change for name, values in self.axes.items() for _, change in _points(name, values)]
        return list(dict.fromkeys(key for change in changes for key in change))


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study: its values on the axes, and its configuration."""

    key: str  # hash of the configuration, 16 hexadecimal digits
    axes: dict[str, Value]
    config: Config


def load_study(
    path: Path, overrides: Sequence[str] = (), only: Sequence[str] = (), yes: bool = False
) -> tuple[Study, list[PlannedRun]]:
    """Read a study file and expand it into runs.

    Args:
        path: the study's YAML file.
        overrides: `key.sub=value` changes of the configuration that its runs share.
        only: `AXIS=VALUE` filters (see `select_values`); other runs are omitted.
        yes: allow more runs than `most_runs`.

    Raises:
        UserError: the file is not a study, its base cannot be read, an axis or grid is empty or names an
            unknown key, there are too many runs, two runs are equal, or a configuration is invalid.
    """
    study, shared = _read(path)
    for override in overrides:
        override_value(shared, override)
    names = axes_of(study)
    points = select_values(names, [_points(*axis) for axis in study.axes.items()], only)
    _check_size(study, prod(map(len, points)), yes)
    runs: list[PlannedRun] = []
    for cell in product(*points):
        mapping = deepcopy(shared)
        for _, changes in cell:
            for key, value in changes.items():
                override_mapping(mapping, key, value, f"{path}: axis key {key!r}")
        mapping["name"] = study.name
        config = _with_one_worker(from_mapping(expand_grids(mapping, str(path)), str(path)))
        check_trials(config)
        values = dict(zip(names, [value for value, _ in cell], strict=True))
        runs.append(PlannedRun(identity(config), values, config))
    _check_models(path, runs)
    _check_axes(study, path)
    _check_distinct(path, runs)
    return study, runs


def select_values(
    names: Sequence[str], points: Sequence[list[Point]], only: Sequence[str]
) -> list[list[Point]]:
    """Return the points of each axis that `only` lists as `AXIS=VALUE`; all points of an unlisted axis.

    Raises UserError for an unknown axis or value.
    """
    wanted: dict[str, set[str]] = {}
    for text in only:
        axis, _, value = text.partition("=")
        if axis not in names:
            axes = ", ".join(names) or "none"
            raise UserError(
                f"--only {cut(text)}: the study's axes are {axes}. Write AXIS=VALUE with one of them."
            )
        values = [str(label) for label, _ in points[names.index(axis)]]
        if value not in values:
            raise UserError(f"--only {cut(text)}: write {axis}=VALUE, with one of {', '.join(values)}.")
        wanted.setdefault(axis, set()).add(value)
    return [
        [point for point in its_points if axis not in wanted or str(point[0]) in wanted[axis]]
        for axis, its_points in zip(names, points, strict=True)
    ]


def _check_size(study: Study, runs: int, yes: bool) -> None:
    if runs > study.most_runs and not yes:
        raise UserError(
            f"study {study.name!r}: {runs} runs, more than its most_runs ({study.most_runs}). "
            "Remove values from its axes, raise most_runs, or add --yes."
        )


def _read(path: Path, derived: Sequence[Path] = ()) -> tuple[Study, dict[str, Any]]:
    """Read a study and the configuration that its runs share; missing keys and axes come from its base."""
    if path.resolve() in derived:
        raise UserError(f"{path}: is a base of itself. Remove the base from one of the files.")
    mapping = read_yaml(path)
    if isinstance(mapping, dict) and {"data", "training"} & set(mapping):
        raise UserError(
            f"{path}: is the configuration of one run. Run it with `fedprofit run {path}`, or use it as "
            "the base of a study."
        )
    study = checked(Study, mapping, str(path))
    if study.base is None:
        return study, deepcopy(study.run)
    base_path = path.parent / study.base
    base = read_yaml(base_path)
    if not isinstance(base, dict):
        raise UserError(f"{path}: base {cut(study.base)}: is not a configuration. Name a run's YAML file.")
    if not {"run", "axes"} & set(base):
        return study, merged(base, study.run)
    other, shared = _read(base_path, [*derived, path.resolve()])
    most = study.most_runs if "most_runs" in study.model_fields_set else other.most_runs
    complete = study.model_copy(update={"axes": other.axes | study.axes, "most_runs": most})
    return complete, merged(shared, study.run)


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the changes: sections are merged key by key, other values are replaced.

    >>> merged({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2]})
    {'a': {'b': 3, 'c': 2}, 'd': [2]}
    """
    result = deepcopy(base)
    for key, value in changes.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and _same_kind(old, value):
            result[key] = merged(old, value)
        else:
            result[key] = deepcopy(value)
    return result


def _same_kind(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Return whether sections have the same kind, and so the same keys."""
    return bool(old.get("kind") == new.get("kind", old.get("kind")))


def _points(name: str, values: list[Any] | dict[str, dict[str, Any]]) -> list[Point]:
    """Return the values of an axis with their changes of the configuration."""
    if isinstance(values, dict):
        return [(label, changes) for label, changes in values.items()]
    return [(value, {name: value}) for value in values]


def axes_of(study: Study) -> list[str]:
    """Return the names of the axes in tables: the last part of a key."""
    return [axis.rpartition(".")[2] for axis in study.axes]


def _check_axes(study: Study, path: Path) -> None:
    """Raise UserError if two axes have the same name, or the axis named seed does not set the seed."""
    names = axes_of(study)
    for axis, name in zip(study.axes, names, strict=True):
        place = f"{path}: axis {cut(axis)!r}"
        for label, changes in _points(axis, study.axes[axis]):
            if name == "seed" and "seed" not in changes:
                raise UserError(f"{place}: its value {shown(label)} sets no seed. {SEED_ADVICE}")
        if names.count(name) > 1:
            within = axis.startswith(("personalization.", "training.algorithms."))
            better = " Or replace the value by {grid: [...]}, so that each run compares them." * within
            example = f"{{my-{cut(name)}: {{low: {{{cut(axis)}: ...}}, high: {{{cut(axis)}: ...}}}}}}"
            raise UserError(
                f"{place}: two axes are named {cut(name)!r}. Give the axis another name, with named sets of "
                f"changes: {example}.{better}"
            )


def _with_one_worker(config: Config) -> Config:
    """Return the configuration with one worker in place of `auto`."""
    if config.backbone.workers != "auto":
        return config
    return config.model_copy(update={"backbone": config.backbone.model_copy(update={"workers": 1})})


def _check_distinct(path: Path, runs: Sequence[PlannedRun]) -> None:
    """Raise UserError if two runs have the same configuration, or the same values and seed in the tables."""
    seen: dict[str, PlannedRun] = {}
    by_cell: dict[tuple[object, ...], PlannedRun] = {}
    for run in runs:
        if run.key in seen:
            raise UserError(
                f"{path}: the runs {describe(seen[run.key].axes)} and {describe(run.axes)} are the same. "
                "Each value of an axis must change the configuration differently."
            )
        seen[run.key] = run
        cell = (*(str(value) for name, value in run.axes.items() if name != "seed"), run.config.seed)
        if cell in by_cell:
            raise UserError(
                f"{path}: the runs {describe(by_cell[cell].axes)} and {describe(run.axes)} both have seed "
                f"{run.config.seed}. {SEED_ADVICE}"
            )
        by_cell[cell] = run


def _check_models(path: Path, runs: Sequence[PlannedRun]) -> None:
    models = {(run.config.backbone.name, run.config.backbone.dtype): None for run in runs}
    if len(models) > 1:
        named = ", ".join(f"{name} in {dtype}" for name, dtype in models)
        raise UserError(
            f"{path}: its runs have several models or dtypes ({named}), whose scores are not comparable. "
            "Write one study for each, and compare them with `fedprofit compare`."
        )


def describe(axes: dict[str, Value]) -> str:
    """Describe a run by its values on the axes.

    >>> describe({"seed": 0, "heterogeneity": "iid"})
    'seed 0, heterogeneity iid'
    """
    return ", ".join(f"{name} {value}" for name, value in axes.items()) or "the only run"
