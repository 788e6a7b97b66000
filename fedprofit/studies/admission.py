"""Check which runs may be added to a study's table: those that are comparable with its rows.

All checks precede the first computation. They include unfinished runs, whose rows are not in the table yet.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedprofit.config.file import changed, from_mapping
from fedprofit.config.legacy import upgraded
from fedprofit.config.run import Config
from fedprofit.core.errors import UserError
from fedprofit.core.reading import read_json
from fedprofit.evaluate.results import SETTING_ID
from fedprofit.runs.environment import package_version
from fedprofit.runs.folder import RunFolder
from fedprofit.runs.identity import NOT_COMPUTED, portable_run
from fedprofit.studies.ledger import RUN, StudyFolder, labels_of, made_with, missing, read_table
from fedprofit.studies.spec import PlannedRun, Study, describe

RESTORE = "Restore it, or delete it to continue without this check."


def admit(folder: StudyFolder, study: Study, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return a study's runs with the dtype of its table.

    Raises:
        UserError: the table or an unfinished run was computed by another version of this package or in
            another dtype; or the runs in the table read other data or differ in more than the axes.
    """
    origins = _origins(folder, runs)
    for origin in origins:
        _check_version(origin)
    if folder.results.exists():
        _check_columns(folder)
        _check_cells(folder, runs)
        _check_data(folder, study, runs)
    runs = _with_common_dtype(origins, runs)
    if folder.results.exists():
        _check_configurations(folder, study, runs)
    return runs


@dataclass(frozen=True)
class _Origin:
    """The version and dtype that computed the table or an unfinished run."""

    path: Path
    is_unfinished: bool  # an unfinished run; else the table
    version: str
    dtype: str

    @property
    def with_version(self) -> str:
        verb = "was started by" if self.is_unfinished else "contains results of"
        return f"{self.path}: {verb} version {self.version}"

    @property
    def with_dtype(self) -> str:
        verb = "was started in" if self.is_unfinished else "contains results computed in"
        return f"{self.path}: {verb} {self.dtype}"

    @property
    def remedy(self) -> str:
        """What to do without it."""
        removed = "remove that folder to start the run again, or " * self.is_unfinished
        return f"{removed}choose another folder with --out"


def _origins(folder: StudyFolder, runs: Sequence[PlannedRun]) -> list[_Origin]:
    """Return the origin of the table, then those of the unfinished planned runs."""
    found = []
    if folder.results.exists():
        found.append(_Origin(folder.results, False, *read_table(folder).select("version", "dtype").row(0)))
    for planned in missing(folder, runs):
        run = RunFolder(folder.run(planned.key))
        try:
            facts = made_with(run) if run.environment.exists() else None
        except UserError:
            continue  # damaged: reported when it runs, while the others continue
        if facts:
            found.append(_Origin(run.path, True, facts["version"], facts["dtype"]))
    return found


def _check_version(origin: _Origin) -> None:
    here = package_version("fedprofit")
    if origin.version != here:
        raise UserError(
            f"{origin.with_version}, this is {here}: they are not comparable. Install version "
            f"{origin.version}, or {origin.remedy}."
        )


def _check_columns(folder: StudyFolder) -> None:
    if SETTING_ID not in read_table(folder).columns:
        raise UserError(
            f"{folder.results}: was written by an earlier version, in other columns. `report` and `claims` "
            "read it; to add runs, choose another folder with --out."
        )


def _check_cells(folder: StudyFolder, runs: Sequence[PlannedRun]) -> None:
    """Raise UserError if the table has another run in a planned run's grid cell, or that run in another."""
    columns = [*labels_of(runs[0]), "seed"]
    keys = {tuple(cell): key for key, *cell in read_table(folder).select(RUN, *columns).unique().rows()}
    cells = {key: cell for cell, key in keys.items()}
    for planned in runs:
        cell = (*labels_of(planned).values(), planned.config.seed)
        if keys.get(cell, planned.key) != planned.key:
            raise UserError(
                f"{folder.results}: contains results at {describe(planned.axes)} of another configuration "
                f"(run {keys[cell]}, now {planned.key}). Choose another folder with --out, or use the "
                "configuration that computed them."
            )
        if cells.get(planned.key, cell) != cell:
            known = ", ".join(map(str, cells[planned.key][:-1]))
            raise UserError(
                f"{folder.results}: contains the results of the run at {describe(planned.axes)} under "
                f"another name on the axes ({known}). Restore that name, or choose another folder with --out."
            )


def _check_data(folder: StudyFolder, study: Study, runs: Sequence[PlannedRun]) -> None:
    """Raise UserError if a planned run would read other data than the table's runs did.

    If an axis changes the data, only runs in the same grid cell, ignoring the seed, are compared.
    """
    from fedprofit.data.sources import content  # here, so that claims and fronts do not import pyarrow

    by_cell = any(key.startswith("data.source") for key in study.changed_keys)
    axes = [*labels_of(runs[0])] if by_cell else []
    environments = read_json(folder.environments, RESTORE) if folder.environments.exists() else {}
    contents = {
        tuple(cell): environments[key]["data_content"]
        for key, *cell in read_table(folder).select(RUN, *axes).unique().rows()
        if "data_content" in environments.get(key, {})
    }
    sources = {
        tuple(labels_of(planned)[axis] for axis in axes): planned.config.data.source for planned in runs
    }
    for cell, settings in sources.items():
        now = content(settings) if cell in contents else ""
        if now and now != contents[cell]:
            raise UserError(
                f"{folder.results}: its runs read other data ({contents[cell]}) than {settings.place} now "
                f"contains ({now}). Restore it, or choose another folder with --out."
            )


def _with_common_dtype(origins: Sequence[_Origin], runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return the runs with the dtype of the existing results, in place of `auto`.

    Raises UserError if a run requests another dtype, or was started in another.
    """
    if not origins:
        return list(runs)
    first = origins[0]
    for origin in origins:
        if origin.dtype != first.dtype:
            raise UserError(
                f"{origin.with_dtype}, and {first.with_dtype}. They are not comparable; to continue with the "
                f"first: {origin.remedy}."
            )
    for planned in runs:
        requested = planned.config.in_type(first.dtype).backbone.dtype
        if requested != first.dtype:
            raise UserError(
                f"{first.with_dtype}, and backbone.dtype of the run at {describe(planned.axes)} is "
                f"{requested}. Choose another folder with --out, or set it to auto."
            )
    return [replace(planned, config=planned.config.in_type(first.dtype)) for planned in runs]


def _check_configurations(folder: StudyFolder, study: Study, runs: Sequence[PlannedRun]) -> None:
    """Raise UserError if a planned run differs from those in the table in more than the axes."""
    if not folder.configurations.exists():
        return
    known = read_json(folder.configurations, RESTORE)
    present = [key for key in read_table(folder)[RUN].unique(maintain_order=True) if key in known]
    if not present:
        return
    keys = _axis_keys(study)
    first = from_mapping(upgraded(known[present[0]]), str(folder.configurations))
    for planned in runs:
        same_dtype = first.in_type(planned.config.backbone.dtype)
        differs = changed(_common(same_dtype, keys), _common(planned.config, keys))
        if differs:
            raise UserError(
                f"{folder.results}: its runs had other settings ({'; '.join(differs[:3])}), which no axis "
                "changes. Choose another folder with --out, or use the configuration that computed them."
            )


def _axis_keys(study: Study) -> list[list[str]]:
    """Return the keys that the axes change, split at dots: a list for its entries, a section for its kind."""
    found = []
    for key in study.changed_keys:
        parts = key.split(".")
        parts = parts[: next((at for at, part in enumerate(parts) if part.isdecimal()), len(parts))]
        found.append(parts[:-1] if parts[-1] == "kind" else parts)  # another kind has other keys
    return found


def _common(config: Config, keys: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return a configuration without the keys of the axes and those that do not affect results."""
    result = portable_run(config.to_mapping())
    for *parents, last in [*keys, ["name"], *(["backbone", key] for key in NOT_COMPUTED)]:
        section: Any = result
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section.pop(last, None)
    return result
