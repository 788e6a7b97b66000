"""A study: one configuration, axes that multiply it into runs, and grids that multiply what a run compares.

    name: rates
    base: ../configs/sni.yaml             # a run's configuration or another study, relative to this file
    run:                                  # what changes in it
      personalization:
        - {name: tune, steps: 20, client: {rate: {grid: [0.003, 0.03]}}}   # two settings of one run
    axes:                                 # every combination is a run
      seed: [0, 1, 2]
      heterogeneity:                      # named sets of changes
        task: {data.partition.kind: task}
        iid: {data.partition.kind: iid}

What runs have in common is computed once: settings of the same run share its federated training and its
baselines. In an algorithm or a baseline, `{pick: [...]}` makes trials instead: each run trains all, and the
one that its validation clients are best off with stands for the algorithm (see `trials.py`). A run is known
by the content of its configuration, so that it is never repeated.
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

SEED_ALONE = (
    "Let the axis called seed set the run's seed, and give an axis that changes something else another name, "
    "with named sets of changes."
)

Value = str | int | float | bool | None
Point = tuple[Value, dict[str, Any]]  # a value of an axis, and what it changes in a configuration


class Study(Section):
    """A study as written."""

    name: Name
    base: str | None = None
    run: dict[str, Any] = Field(default_factory=dict)
    axes: dict[str, list[Any] | dict[str, dict[str, Any]]] = Field(default_factory=dict)
    most_runs: Positive = 100  # more than these are started only when asked for

    @field_validator("axes")
    @classmethod
    def _axes_have_values(cls, axes: dict[str, Any]) -> dict[str, Any]:
        for name, values in axes.items():
            if not values:
                raise ValueError(f"the axis {cut(name)!r} is empty; give it values or leave it out")
        return axes

    @property
    def changed_keys(self) -> list[str]:
        """The keys of the configuration that the axes change."""
        every = [change for name, values in self.axes.items() for _, change in _points(name, values)]
        return list(dict.fromkeys(key for change in every for key in change))


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study: where it stands on the axes, and its configuration."""

    key: str  # 16 hexadecimal digits: what it computes
    axes: dict[str, Value]
    config: Config


def load_study(
    path: Path, overrides: Sequence[str] = (), only: Sequence[str] = (), yes: bool = False
) -> tuple[Study, list[PlannedRun]]:
    """Read a study and multiply it out.

    `overrides` (`key.sub=value`) change the configuration that all its runs share; `only` (see `at_places`)
    says which of the runs are returned; `yes` that they may be more than the study says there should be.

    Raises UserError: what is no study, a base that cannot be read, an axis or grid that is empty or names
    no key, too many runs, two runs that are the same, and whatever is wrong with a run's configuration.
    """
    study, shared = _read(path)
    for override in overrides:
        override_value(shared, override)
    names = axes_of(study)
    points = at_places(names, [_points(*axis) for axis in study.axes.items()], only)
    _check_size(study, prod(map(len, points)), yes)
    runs: list[PlannedRun] = []
    for place in product(*points):
        mapping = deepcopy(shared)
        for _, changes in place:
            for key, value in changes.items():
                override_mapping(mapping, key, value, f"{path}: axis key {key!r}")
        mapping["name"] = study.name
        config = _single(from_mapping(expand_grids(mapping, str(path)), str(path)))
        check_trials(config)
        position = dict(zip(names, [value for value, _ in place], strict=True))
        runs.append(PlannedRun(identity(config), position, config))
    _check_models(path, runs)
    _check_axes(study, path)
    _check_distinct(path, runs)
    return study, runs


def at_places(names: Sequence[str], points: Sequence[list[Point]], only: Sequence[str]) -> list[list[Point]]:
    """Keep of each axis the points that are asked for, as `AXIS=VALUE`; all of an axis that is not named.

    Raises UserError for an axis or a value that the study does not have.
    """
    wanted: dict[str, set[str]] = {}
    for place in only:
        axis, _, value = place.partition("=")
        if axis not in names:
            axes = ", ".join(names) or "none"
            raise UserError(
                f"--only {cut(place)}: the study's axes are {axes}. Write AXIS=VALUE with one of them."
            )
        values = [str(label) for label, _ in points[names.index(axis)]]
        if value not in values:
            raise UserError(f"--only {cut(place)}: write {axis}=VALUE, with one of {', '.join(values)}.")
        wanted.setdefault(axis, set()).add(value)
    return [
        [point for point in own if axis not in wanted or str(point[0]) in wanted[axis]]
        for axis, own in zip(names, points, strict=True)
    ]


def _check_size(study: Study, runs: int, yes: bool) -> None:
    if runs > study.most_runs and not yes:
        raise UserError(
            f"study {study.name!r}: {runs} runs, more than its most_runs ({study.most_runs}). Take values "
            "off its axes, raise most_runs, or go on with --yes."
        )


def _read(path: Path, above: Sequence[Path] = ()) -> tuple[Study, dict[str, Any]]:
    """Read a study and what its runs share; what it does not say, its base does, axes too."""
    if path.resolve() in above:
        raise UserError(f"{path}: is a base of itself. Let one of the files stand alone.")
    mapping = read_yaml(path)
    if isinstance(mapping, dict) and {"data", "training"} & set(mapping):
        raise UserError(
            f"{path}: is the configuration of one run. Run it with `fedprofit run {path}`, or let a study "
            "name it as its base."
        )
    study = checked(Study, mapping, str(path))
    if study.base is None:
        return study, deepcopy(study.run)
    place = path.parent / study.base
    base = read_yaml(place)
    if not isinstance(base, dict):
        raise UserError(f"{path}: base {cut(study.base)}: holds no configuration. Name a run's YAML file.")
    if not {"run", "axes"} & set(base):
        return study, merged(base, study.run)
    other, shared = _read(place, [*above, path.resolve()])
    most = study.most_runs if "most_runs" in study.model_fields_set else other.most_runs
    whole = study.model_copy(update={"axes": other.axes | study.axes, "most_runs": most})
    return whole, merged(shared, study.run)


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the changes: sections are merged key by key, all else is replaced.

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
    """Tell whether sections have the same keys; those of another kind have others, and none is kept."""
    return bool(old.get("kind") == new.get("kind", old.get("kind")))


def _points(name: str, values: list[Any] | dict[str, dict[str, Any]]) -> list[Point]:
    """Return an axis' values, each with what it changes."""
    if isinstance(values, dict):
        return [(label, changes) for label, changes in values.items()]
    return [(value, {name: value}) for value in values]


def axes_of(study: Study) -> list[str]:
    """Return the axes' names as tables have them: a key by its last part."""
    return [axis.rpartition(".")[2] for axis in study.axes]


def _check_axes(study: Study, path: Path) -> None:
    """Raise UserError unless every axis has a name of its own, and one called seed sets the seed."""
    names = axes_of(study)
    for axis, name in zip(study.axes, names, strict=True):
        place = f"{path}: axis {cut(axis)!r}"
        for label, changes in _points(axis, study.axes[axis]):
            if name == "seed" and "seed" not in changes:
                raise UserError(f"{place}: its value {shown(label)} sets no seed. {SEED_ALONE}")
        if names.count(name) > 1:
            within = axis.startswith(("personalization.", "training.algorithms."))
            better = " Or let a run compare its values, as claims do: {grid: [...]} in place of one." * within
            own = f"{{my-{cut(name)}: {{low: {{{cut(axis)}: ...}}, high: {{{cut(axis)}: ...}}}}}}"
            raise UserError(
                f"{place}: two axes are called {cut(name)!r}. Give the axis a name of its own, with named "
                f"sets of changes: {own}.{better}"
            )


def _single(config: Config) -> Config:
    """Return a configuration that one process computes by itself, if it leaves that open."""
    if config.backbone.workers != "auto":
        return config
    return config.model_copy(update={"backbone": config.backbone.model_copy(update={"workers": 1})})


def _check_distinct(path: Path, runs: Sequence[PlannedRun]) -> None:
    """Let every run compute something of its own, and have a place of its own in the tables."""
    seen: dict[str, PlannedRun] = {}
    placed: dict[tuple[object, ...], PlannedRun] = {}
    for run in runs:
        if run.key in seen:
            raise UserError(
                f"{path}: the runs {describe(seen[run.key].axes)} and {describe(run.axes)} are the same. Let "
                "the axes change something, and each value something else."
            )
        seen[run.key] = run
        place = (*(str(value) for name, value in run.axes.items() if name != "seed"), run.config.seed)
        if place in placed:
            raise UserError(
                f"{path}: the runs {describe(placed[place].axes)} and {describe(run.axes)} both have seed "
                f"{run.config.seed}. {SEED_ALONE}"
            )
        placed[place] = run


def _check_models(path: Path, runs: Sequence[PlannedRun]) -> None:
    models = {(run.config.backbone.name, run.config.backbone.dtype): None for run in runs}
    if len(models) > 1:
        named = ", ".join(f"{name} in {dtype}" for name, dtype in models)
        raise UserError(
            f"{path}: its runs are of several models or number types ({named}), whose scores do not compare. "
            "Make a study of each, and put them side by side with `fedprofit compare`."
        )


def describe(axes: dict[str, Value]) -> str:
    """Name a run by its place on the axes.

    >>> describe({"seed": 0, "heterogeneity": "iid"})
    'seed 0, heterogeneity iid'
    """
    return ", ".join(f"{name} {value}" for name, value in axes.items()) or "the only run"
