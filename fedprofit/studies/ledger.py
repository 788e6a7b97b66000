"""A study's tables: the results of its complete runs.

results.parquet     the tidy table of all runs, with the run's key and its values on the axes
settings.parquet    all hyperparameters of each scored setting, by the id that results have
rounds.parquet      each round of federated training of each trial: losses and budget
trials.parquet      each trial of each algorithm, and of baselines with several trials: its loss on the
                    validation clients, and whether it was selected
validation.parquet  like results.parquet, for the validation clients, if they are personalized
clients.parquet     each client's training data, by task
worst.parquet       the examples on which each run's methods do worst, with texts and answers
times.parquet       seconds of each run's stages
environments.json   each run's versions, machine and hashes
configurations.json each run's complete configuration, except the folder of its data
study.json          name, axes, and the study as written
failures.json       the failed runs and their errors

An axis is a column `axis.NAME` in all tables except the settings, so that its name cannot equal that of
another column. A run is done if its rows are in results.parquet: it is not repeated on any machine. All
scored examples stay in the runs' folders, because they are much larger than these tables.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from fedprofit.config.run import Config
from fedprofit.core.errors import UserError
from fedprofit.core.reading import read_json, read_parquet, read_rows
from fedprofit.core.sealed import write_record
from fedprofit.evaluate.hyperparameters import settings_frame
from fedprofit.evaluate.results import SETTING_ID, axis_column, write_frame
from fedprofit.runs.folder import SUMMARY, Folder, RunFolder, read_timing
from fedprofit.runs.identity import portable_run
from fedprofit.runs.trials import Outcome, baseline_outcomes, outcomes
from fedprofit.studies.spec import PlannedRun, Study, axes_of

RUN = "run"
COMPUTE_AGAIN = "Restore it, or delete the run's folder to compute it again."
RESTORE = "Restore it, or delete it and lose the rows of other runs."
MADE_WITH = ("version", "model", "dtype")  # columns with one value per table
ROUNDS = ("round", "loss", "validation_loss", "clients", "steps", "tokens", "bytes_down", "bytes_up")


class StudyFolder(Folder):
    """Paths of a study, by name."""

    @property
    def rounds(self) -> Path:
        """Each round of federated training of all complete runs."""
        return self.path / "rounds.parquet"

    @property
    def trials(self) -> Path:
        """Each trial of all complete runs, and whether it was selected."""
        return self.path / "trials.parquet"

    @property
    def times(self) -> Path:
        """Seconds of each run's stages."""
        return self.path / "times.parquet"

    @property
    def environments(self) -> Path:
        """Each run's versions, machine and hashes."""
        return self.path / "environments.json"

    @property
    def configurations(self) -> Path:
        """Each run's configuration."""
        return self.path / "configurations.json"

    @property
    def facts(self) -> Path:
        """Name and axes."""
        return self.path / "study.json"

    @property
    def failures(self) -> Path:
        """The failed runs and their errors."""
        return self.path / "failures.json"

    def run(self, key: str) -> Path:
        """Return the folder of a run."""
        return self.path / "runs" / key


def claim(path: Path, study: Study, resume: bool) -> StudyFolder:
    """Return the folder for a new or resumed study; `write_facts` then records the study in it.

    Raises UserError if the folder contains anything else, or this study and `resume` is false.
    """
    folder = StudyFolder(path)
    if contains_study(folder, study) and not resume:
        raise UserError(f"{path}: contains this study already. Add --resume to resume it.")
    return folder


def contains_study(folder: StudyFolder, study: Study) -> bool:
    """Return whether a folder contains a study; raise UserError if it contains anything else."""
    path = folder.path
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file, not a folder. Choose another folder with --out.")
    if folder.facts.exists():
        facts = read_facts(folder)
        name = facts["name"]
        if name != study.name:
            raise UserError(
                f"{path}: contains the study {name!r}, not {study.name!r}. Choose another folder with --out."
            )
        if sorted(facts["axes"]) != sorted(axes_of(study)):
            raise UserError(
                f"{path}: contains the study {name!r} with the axes {', '.join(facts['axes'])}, now they are "
                f"{', '.join(axes_of(study))}. Choose another folder with --out."
            )
        return True
    if _has_columns(folder.results, study):
        return True
    if path.is_dir() and any(entry.suffix != ".part" for entry in path.iterdir()):  # left by a kill
        raise UserError(f"{path}: is not empty and not a study. Choose another folder with --out.")
    return False


def _has_columns(results: Path, study: Study) -> bool:
    """Return whether results without study.json have the columns of a study with these axes."""
    try:
        columns = read_parquet(results, "").columns
    except UserError:
        return False
    return {RUN, *MADE_WITH, *map(axis_column, axes_of(study))} <= set(columns)


def write_facts(folder: StudyFolder, study: Study) -> None:
    """Record the study in its folder. Its axes may have more values than before."""
    facts = {"name": study.name, "axes": axes_of(study), "study": study.model_dump(mode="json")}
    if not folder.facts.exists() or read_facts(folder) != facts:
        write_record(folder.facts, facts)


def read_facts(folder: StudyFolder) -> dict[str, Any]:
    """Read a study's name and axes; raise UserError if there is no study."""
    return read_json(folder.facts, "Give the folder that `fedprofit study` printed.", ("name", "axes"))


def done(folder: StudyFolder) -> set[str]:
    """Return the keys of the runs whose rows are in the table."""
    if not folder.results.exists():
        return set()
    return set(read_table(folder)[RUN].unique().to_list())


def missing(folder: StudyFolder, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return the runs whose rows are not in the table, in order."""
    known = done(folder)
    return [planned for planned in runs if planned.key not in known]


def read_table(folder: StudyFolder) -> pl.DataFrame:
    """Read the study's results; raise UserError if there are none, or if they have several origins."""
    if not folder.results.exists():
        raise UserError(f"{folder.results}: there are no results yet. Run the study first.")
    restore = "Restore it, or move it away and rebuild it from the runs by `fedprofit study --resume`."
    table = read_parquet(folder.results, restore)
    for column in (RUN, *MADE_WITH):
        if column not in table.columns:
            raise UserError(f"{folder.results}: has no column {column!r}, so no study wrote it. {restore}")
    for column in MADE_WITH:
        values = table[column].unique().to_list()
        if len(values) > 1:
            raise UserError(
                f"{folder.results}: mixes results of several {column}s ({', '.join(sorted(values))}), which "
                "are not comparable. Keep the rows of one, or run the study in a new folder."
            )
    return table


def add(folder: StudyFolder, planned: PlannedRun) -> None:
    """Add a complete run's rows to the tables; replace them if they are there.

    Raises UserError if the rows are not comparable with those in the table, or a file is damaged.
    """
    run = RunFolder(folder.run(planned.key))
    summary = read_json(run.summary, COMPUTE_AGAIN, SUMMARY)
    timing = read_timing(run)
    labels = {RUN: planned.key, **labels_of(planned)}
    # Heterogeneity: mean total-variation distance of a client's task mix from the pool's.
    facts = {**made_with(run), "tv": summary["data"]["heterogeneity"]}
    _check_made_with(folder, planned, facts)
    seed = {"seed": planned.config.seed}
    times = pl.DataFrame({"stage": list(timing), "seconds": list(timing.values())})
    _append(folder.rounds, planned.key, labelled(read_rounds(run, planned.config), labels))
    _append(folder.trials, planned.key, labelled(read_trials(run, planned.config), labels))
    _append(folder.times, planned.key, labelled(times, labels | seed))
    _append(folder.clients, planned.key, labelled(read_parquet(run.clients, COMPUTE_AGAIN), labels | seed))
    _record(folder.environments, planned.key, run.read_environment())
    _record(folder.configurations, planned.key, portable_run(planned.config.to_mapping()))
    if run.worst.exists():
        _append(folder.worst, planned.key, labelled(read_parquet(run.worst, COMPUTE_AGAIN), labels | seed))
    if run.validation.exists():
        found = labelled(read_parquet(run.validation, COMPUTE_AGAIN), labels | facts)
        _append(folder.validation, planned.key, found)
    _add_settings(folder, read_parquet(run.settings, COMPUTE_AGAIN, (SETTING_ID,)))
    results = labelled(read_parquet(run.results, COMPUTE_AGAIN, (SETTING_ID,)), labels | facts)
    _append(folder.results, planned.key, results)  # last, because these rows mark the run as done


def made_with(run: RunFolder) -> dict[str, Any]:
    """Return the values of `MADE_WITH` of a run: its results depend on them and on its configuration."""
    environment = run.read_environment()
    values = environment["versions"]["fedprofit"], environment["model"]["hash"], run.dtype
    return dict(zip(MADE_WITH, values, strict=True))


def _check_made_with(folder: StudyFolder, planned: PlannedRun, facts: Mapping[str, object]) -> None:
    """Raise UserError if a run has another version, model or dtype than the table."""
    known = read_table(folder).select(MADE_WITH).unique().to_dicts() if folder.results.exists() else []
    for column, value in (known[0] if known else {}).items():
        if facts[column] != value:
            raise UserError(
                f"{folder.run(planned.key)}: was computed with the {column} {facts[column]}, the results in "
                f"{folder.results} with {value}. They are not comparable: the run is kept, but not added."
            )


def read_rounds(run: RunFolder, config: Config) -> pl.DataFrame:
    """Return a run's federated training: one row per round and trial."""
    rows = [
        {**_trial(config, one), **{key: row.get(key) for key in ROUNDS}}
        for one in outcomes(run, config)
        for row in read_rows(run.history(one.trial), run.remedy())
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def read_trials(run: RunFolder, config: Config) -> pl.DataFrame:
    """Return a run's trials, one row each: the losses of the last and of the best round."""
    rows = [
        {
            **_trial(config, one),
            "validation_loss": one.loss,
            "best_loss": one.best_loss,
            "tokens": one.tokens,
        }
        for one in [*outcomes(run, config), *baseline_outcomes(run, config)]
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def _trial(config: Config, one: Outcome) -> dict[str, Any]:
    return {"seed": config.seed, "algorithm": one.method, "trial": one.trial, "chosen": one.chosen}


def labels_of(planned: PlannedRun) -> dict[str, object]:
    """Return a run's values on the axes as columns; without the seed, which every run's tables contain."""
    return {axis_column(name): str(value) for name, value in planned.axes.items() if name != "seed"}


def labelled(frame: pl.DataFrame, labels: Mapping[str, object]) -> pl.DataFrame:
    """Prepend constant columns to a table."""
    return frame.select(*(pl.lit(text).alias(name) for name, text in labels.items()), pl.all())


def _add_settings(folder: StudyFolder, settings: pl.DataFrame) -> None:
    known = read_parquet(folder.settings, RESTORE).to_dicts() if folder.settings.exists() else []
    write_frame(folder.settings, settings_frame([*known, *settings.to_dicts()]))


def _record(path: Path, key: str, facts: dict[str, Any]) -> None:
    known = read_json(path, RESTORE) if path.exists() else {}
    write_record(path, known | {key: facts})


def _append(path: Path, key: str, rows: pl.DataFrame) -> None:
    parts = [rows]
    if path.exists():
        parts.insert(0, read_parquet(path, RESTORE).filter(pl.col(RUN) != key))
    write_frame(path, pl.concat(parts, how="diagonal_relaxed"))


def write_failures(
    folder: StudyFolder, failures: Sequence[dict[str, Any]], planned: Sequence[PlannedRun]
) -> None:
    """Write the failures of the planned runs and of earlier ones; delete the file if there are none."""
    replaced = {run.key for run in planned} | done(folder)
    before = read_rows(folder.failures, RESTORE) if folder.failures.exists() else []
    failed = [one for one in before if one["run"] not in replaced] + list(failures)
    if failed:
        write_record(folder.failures, failed)
    else:
        folder.failures.unlink(missing_ok=True)
