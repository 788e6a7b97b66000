"""Open the results of a run or study as tables with the same columns."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import polars as pl

from fedprofit.analyze.legacy import with_axis_columns, with_settings
from fedprofit.core import yaml_text
from fedprofit.core.errors import UserError
from fedprofit.core.reading import read_json, read_parquet
from fedprofit.evaluate.metric import in_order, remember
from fedprofit.evaluate.results import axis_column, read_results
from fedprofit.evaluate.rules import recorded_facts
from fedprofit.runs.folder import open_folder, read_timing
from fedprofit.studies.ledger import (
    RUN,
    StudyFolder,
    labelled,
    made_with,
    read_facts,
    read_rounds,
    read_table,
    read_trials,
)

SETTING = ("algorithm", "condition", "setting", "start")
IS_TRAINED = pl.col("condition").is_in(["personalized", "local", "central"])
IS_END = IS_TRAINED & (pl.col("step") == pl.col("step").max().over(RUN, *SETTING))
LAST = pl.col("step").max().alias("end")


@dataclass(frozen=True)
class Tables:
    """Results of one or more runs; every table has columns for the run's key and its axis values."""

    path: Path
    name: str
    is_study: bool
    axes: list[str]  # without the seed; empty for a single run; columns are `axis_column(axis)`
    results: pl.DataFrame  # of the test clients, with the hyperparameters of FACTS
    validation: pl.DataFrame | None = None  # of the validation clients, if they are personalized
    settings: pl.DataFrame | None = None  # all hyperparameters, by the id of a setting
    worst: pl.DataFrame | None = None  # each run's worst examples, with all answers
    rounds: pl.DataFrame | None = None  # of federated training
    trials: pl.DataFrame | None = None  # of every method and baseline
    clients: pl.DataFrame | None = None  # training examples of each client, by task
    times: pl.DataFrame | None = None  # seconds by stage
    configuration: str = ""  # YAML: of the run; of a study, its file and its first run's
    environments: dict[str, Any] = field(default_factory=dict)  # by run
    serving: list[dict[str, Any]] = field(default_factory=list)  # of a run: what each setting costs to serve
    ends: pl.DataFrame | None = None  # each run's own last step, by setting
    places: dict[str, list[str]] = field(default_factory=dict)  # the study's values by axis, with seeds

    @property
    def model(self) -> str:
        """The name of the backbone."""
        found = [environment["model"]["name"] for environment in self.environments.values()]
        return str(found[0]) if found else "unknown model"

    @property
    def planned(self) -> int:
        """The number of runs that the study's file defines."""
        return prod(len(values) for values in self.places.values())

    @property
    def done(self) -> int:
        """The number of these runs that are in the tables."""
        if not self.places:
            return int(self.results[RUN].n_unique())
        at = [pl.col(axis_column(axis)).cast(pl.String).is_in(values) for axis, values in self.places.items()]
        return int(self.results.filter(*at)[RUN].n_unique())

    @property
    def metrics(self) -> list[str]:
        """The metrics of the local scores, most informative first."""
        return in_order(self.results.filter(pl.col("scope") == "local")["metric"].unique())

    def metric(self, asked: str | None) -> str:
        """Return the requested metric, by default the most informative one.

        Raises:
            UserError: the metric was not scored.
        """
        if not self.metrics:
            raise UserError(f"{self.path}: no test client has local scores. Give the clients test examples.")
        if asked is None:
            return self.metrics[0]
        if asked not in self.metrics:
            raise UserError(f"{self.path}: was not scored by {asked!r}. Use {' or '.join(self.metrics)}.")
        return asked


def open_tables(path: Path) -> Tables:
    """Open the folder of a complete run, or of a study, which may be unfinished.

    Raises:
        UserError: the folder is neither, the run is incomplete, or its files do not belong together.
    """
    study = StudyFolder(path)
    found = _of_study(study) if study.facts.exists() else _of_run(path)
    for environment in found.environments.values():
        remember(recorded_facts(environment))
    return with_one_end(found)


def with_one_end(tables: Tables) -> Tables:
    """Align final steps across the runs of a grid cell; store each run's own final step in `ends`."""
    ends = tables.results.filter(IS_TRAINED).group_by(RUN, *SETTING).agg(LAST)
    frames = [frame for frame in (tables.results, tables.validation) if frame is not None]
    results, *validation = with_one_last_step(tables.axes, *frames)
    return replace(tables, ends=ends, results=results, validation=validation[0] if validation else None)


def with_one_last_step(axes: Sequence[str], *frames: pl.DataFrame) -> list[pl.DataFrame]:
    """Set the final step of a setting to the largest one in its grid cell.

    Clients that train for epochs take as many steps as their data require. The number of the final step
    therefore differs between runs, and between validation and test clients.

    Args:
        axes: the columns `axis_column(axis)` identify a grid cell.
        frames: results, for example of the test and of the validation clients.

    Returns:
        The frames with aligned final steps.
    """
    keys = [*map(axis_column, axes), *SETTING]
    ends = pl.concat([frame.group_by(keys).agg(LAST) for frame in frames])
    ends = ends.group_by(keys).agg(pl.col("end").max())
    return [
        frame.join(ends, on=keys, how="left", nulls_equal=True, maintain_order="left")
        .with_columns(step=pl.when(IS_END).then(pl.col("end")).otherwise(pl.col("step")))
        .drop("end")
        for frame in frames
    ]


def _of_study(folder: StudyFolder) -> Tables:
    facts = read_facts(folder)
    results = read_table(folder)
    axes = [axis for axis in facts["axes"] if axis != "seed"]
    complete = results.select(RUN).unique()
    configurations = _facts(folder.configurations)
    first: dict[str, Any] = configurations.get(results[RUN][0], {}) if len(results) else {}
    rounds = _optional(folder.rounds)
    if rounds is not None and "chosen" not in rounds.columns:
        raise UserError(f"{folder.rounds}: was written by an earlier version. Run the study in a new folder.")

    def read_complete(path: Path) -> pl.DataFrame | None:
        """Read a table without runs that were only partly added to the study."""
        found = _optional(path)
        if found is None:
            return None
        found = with_axis_columns(found, axes)
        return found.join(complete, on=RUN, how="semi", maintain_order="left")

    trials, validation = read_complete(folder.trials), read_complete(folder.validation)
    results, settings = with_settings(
        with_axis_columns(results, axes), _optional(folder.settings), configurations, trials
    )
    if validation is not None:
        validation, _ = with_settings(validation, settings, configurations, trials)

    return Tables(
        path=folder.path,
        name=facts["name"],
        is_study=True,
        axes=axes,
        results=results,
        validation=validation,
        settings=settings,
        rounds=read_complete(folder.rounds),
        trials=trials,
        worst=read_complete(folder.worst),
        clients=read_complete(folder.clients),
        times=read_complete(folder.times),
        configuration=_configuration(facts.get("study", {}), first),
        environments=_facts(folder.environments),
        places=_places(facts.get("study", {}).get("axes", {})),
    )


def _of_run(path: Path) -> Tables:
    run = open_folder(path)
    summary = run.read_summary()
    key, config = summary["config_hash"], run.read_config()
    labels = {RUN: key, **made_with(run), "tv": summary["data"]["heterogeneity"]}
    validation, clients, timing = _optional(run.validation), _optional(run.clients), read_timing(run)
    worst = _optional(run.worst)
    trials = labelled(read_trials(run, config), {RUN: key}) if run.has_history(config) else None
    configurations = {key: config.to_mapping()}
    results, settings = with_settings(
        labelled(read_results(path), labels), _optional(run.settings), configurations, trials
    )
    if validation is not None:
        validation, _ = with_settings(labelled(validation, labels), settings, configurations, trials)
    seed = {RUN: key, "seed": config.seed}
    times = pl.DataFrame({"stage": list(timing), "seconds": list(timing.values())})
    return Tables(
        path=path,
        name=summary["name"],
        is_study=False,
        axes=[],
        results=results,
        validation=validation,
        settings=settings,
        rounds=labelled(read_rounds(run, config), {RUN: key}) if run.has_history(config) else None,
        trials=trials,
        worst=None if worst is None else labelled(worst, seed),
        clients=None if clients is None else labelled(clients, seed),
        times=labelled(times, seed),
        configuration=run.read_config_text(),
        environments={key: run.read_environment()},
        serving=summary.get("serving", []),
    )


def _places(axes: dict[str, Any]) -> dict[str, list[str]]:
    """Return the values of each axis in a study's file, as its tables contain them."""
    found = {}
    for axis, values in axes.items():
        name = axis.rpartition(".")[2]
        found[name] = list(map(str, values))
        if isinstance(values, dict) and name == "seed":  # tables contain the seed itself, not its label
            found[name] = [str(changes.get("seed", label)) for label, changes in values.items()]
    return found


def _configuration(study: dict[str, Any], settings: dict[str, Any]) -> str:
    """Return a study's file, which contains only changes, and its first run's complete configuration."""
    text = yaml_text.dump(study)
    if settings:
        text += "---\n# Complete configuration of the first run; the others differ along the axes\n"
        text += yaml_text.dump(settings)
    return text


def _facts(path: Path) -> dict[str, Any]:
    return read_json(path, "Restore it, or delete it.") if path.exists() else {}


def _optional(path: Path) -> pl.DataFrame | None:
    remedy = "Restore it, or delete it to leave out its contents."
    return read_parquet(path, remedy) if path.exists() else None


def with_edges(trials: pl.DataFrame) -> pl.DataFrame:
    """Add a column `edge`: whether a chosen trial is the first or last of three or more.

    If the study lists values in order, better ones may be beyond the edge.
    """
    number, count = pl.int_range(pl.len()), pl.len()
    outer = (count > 2) & ((number == 0) | (number == count - 1))
    return trials.with_columns(edge=pl.col("chosen") & outer.over(RUN, "algorithm"))


def place_of(row: dict[str, object], axes: Sequence[str]) -> str:
    """Return the name of a grid cell.

    >>> place_of({"axis.heterogeneity": "iid", "axis.rounds": "5"}, ["heterogeneity", "rounds"])
    'heterogeneity iid, rounds 5'
    """
    return ", ".join(f"{axis} {row[axis_column(axis)]}" for axis in axes)
