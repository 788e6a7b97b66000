"""Which runs may be added to the table of a study: those that belong to the same study as its rows.

All of it is told before anything is computed. Runs that are begun and not yet in the table count as well:
they will be.
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

RESTORE = "Restore it, or delete it to go on without this check."


def admit(folder: StudyFolder, study: Study, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return a study's runs as they are to be computed for its table.

    Raises UserError where the table's rows, or runs that are begun, are of another version of this package or
    of several number types; where the rows are of runs that read other data, or that differ from the planned
    ones in anything but the study's axes.
    """
    made = _made(folder, runs)
    for one in made:
        _check_version(one)
    if folder.results.exists():
        _check_columns(folder)
        _check_places(folder, runs)
        _check_data(folder, study, runs)
    runs = _in_one_type(made, runs)
    if folder.results.exists():
        _check_configurations(folder, study, runs)
    return runs


@dataclass(frozen=True)
class _Made:
    """What the rows of the table, or of a run that is begun, are made with."""

    where: Path
    begun: bool  # a run, of which nothing is in the table yet
    version: str
    dtype: str

    @property
    def of_version(self) -> str:
        return f"{self.where}: {'was begun by' if self.begun else 'holds results of'} version {self.version}"

    @property
    def of_type(self) -> str:
        return f"{self.where}: {'was begun in' if self.begun else 'holds results computed in'} {self.dtype}"

    @property
    def anew(self) -> str:
        """Say what there is to do without it."""
        removed = "remove that folder to begin the run anew, or " * self.begun
        return f"{removed}choose another place with --out"


def _made(folder: StudyFolder, runs: Sequence[PlannedRun]) -> list[_Made]:
    """Return what the table is made with, and each planned run that is begun and not in it yet."""
    found = []
    if folder.results.exists():
        found.append(_Made(folder.results, False, *read_table(folder).select("version", "dtype").row(0)))
    for planned in missing(folder, runs):
        run = RunFolder(folder.run(planned.key))
        try:
            facts = made_with(run) if run.environment.exists() else None
        except UserError:
            continue  # it is damaged, which is told when the run is tried; the others go on
        if facts:
            found.append(_Made(run.path, True, facts["version"], facts["dtype"]))
    return found


def _check_version(made: _Made) -> None:
    here = package_version("fedprofit")
    if made.version != here:
        raise UserError(
            f"{made.of_version}, this is {here}, and they do not compare. Install version {made.version}, "
            f"or {made.anew}."
        )


def _check_columns(folder: StudyFolder) -> None:
    if SETTING_ID not in read_table(folder).columns:
        raise UserError(
            f"{folder.results}: was written by an earlier version, in other columns. `report` and `claims` "
            "read it; to add runs, choose another place with --out."
        )


def _check_places(folder: StudyFolder, runs: Sequence[PlannedRun]) -> None:
    """Raise UserError if the table holds another run at a planned one's place, or it at another place."""
    columns = [*labels_of(runs[0]), "seed"]
    held = {tuple(place): key for key, *place in read_table(folder).select(RUN, *columns).unique().rows()}
    places = {key: place for place, key in held.items()}
    for planned in runs:
        place = (*labels_of(planned).values(), planned.config.seed)
        if held.get(place, planned.key) != planned.key:
            raise UserError(
                f"{folder.results}: holds results at {describe(planned.axes)} of another configuration (run "
                f"{held[place]}, now {planned.key}). Choose another place with --out, or run what made them."
            )
        if places.get(planned.key, place) != place:
            there = ", ".join(map(str, places[planned.key][:-1]))
            raise UserError(
                f"{folder.results}: holds the results of the run at {describe(planned.axes)} under another "
                f"name on the axes ({there}). Call the value what it was called, or choose another place "
                "with --out."
            )


def _check_data(folder: StudyFolder, study: Study, runs: Sequence[PlannedRun]) -> None:
    """Raise UserError if what lies where a planned run reads is not what the table's runs read there.

    Where an axis says what is read, runs at the same place on the axes, seeds aside, read the same.
    """
    from fedprofit.data.sources import content  # here: claims and fronts wait for no pyarrow

    by_place = any(key.startswith("data.source") for key in study.changed_keys)
    axes = [*labels_of(runs[0])] if by_place else []
    known = read_json(folder.environments, RESTORE) if folder.environments.exists() else {}
    held = {
        tuple(place): known[key]["data_content"]
        for key, *place in read_table(folder).select(RUN, *axes).unique().rows()
        if "data_content" in known.get(key, {})
    }
    sources = {
        tuple(labels_of(planned)[axis] for axis in axes): planned.config.data.source for planned in runs
    }
    for place, settings in sources.items():
        now = content(settings) if place in held else ""
        if now and now != held[place]:
            raise UserError(
                f"{folder.results}: its runs read other data ({held[place]}) than {settings.place} is now "
                f"({now}). Restore it, or choose another place with --out."
            )


def _in_one_type(made: Sequence[_Made], runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Let runs that leave their number type to the machine compute in that of what is there already.

    Raises UserError for one that asks for another type, or is begun in another: its rows would not belong
    into the table.
    """
    if not made:
        return list(runs)
    first = made[0]
    for one in made:
        if one.dtype != first.dtype:
            raise UserError(
                f"{one.of_type}, and {first.of_type}. They do not compare; for the first: {one.anew}."
            )
    for planned in runs:
        asked = planned.config.in_type(first.dtype).backbone.dtype
        if asked != first.dtype:
            raise UserError(
                f"{first.of_type}, and backbone.dtype of the run at {describe(planned.axes)} is {asked}. "
                "Choose another place with --out, or leave it at auto."
            )
    return [replace(planned, config=planned.config.in_type(first.dtype)) for planned in runs]


def _check_configurations(folder: StudyFolder, study: Study, runs: Sequence[PlannedRun]) -> None:
    """Raise UserError if a planned run differs from those in the table in more than the axes."""
    if not folder.configurations.exists():
        return
    kept = read_json(folder.configurations, RESTORE)
    present = [key for key in read_table(folder)[RUN].unique(maintain_order=True) if key in kept]
    if not present:
        return
    keys = _axis_keys(study)
    held = from_mapping(upgraded(kept[present[0]]), str(folder.configurations))
    for planned in runs:
        same_type = held.in_type(planned.config.backbone.dtype)
        differs = changed(_common(same_type, keys), _common(planned.config, keys))
        if differs:
            raise UserError(
                f"{folder.results}: its runs had other settings ({'; '.join(differs[:3])}), which no axis "
                "changes. Choose another place with --out, or run what made them."
            )


def _axis_keys(study: Study) -> list[list[str]]:
    """Return the parts of all keys that the axes change: of a list the list, of a kind the section of it."""
    found = []
    for key in study.changed_keys:
        parts = key.split(".")
        parts = parts[: next((at for at, part in enumerate(parts) if part.isdecimal()), len(parts))]
        found.append(parts[:-1] if parts[-1] == "kind" else parts)  # another kind has other keys
    return found


def _common(config: Config, keys: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Leave out of a configuration what differs between the runs of a study, and what changes no result."""
    result = portable_run(config.to_mapping())
    for *parents, last in [*keys, ["name"], *(["backbone", key] for key in NOT_COMPUTED)]:
        section: Any = result
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if isinstance(section, dict):
            section.pop(last, None)
    return result
