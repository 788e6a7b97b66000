"""The results of a run or of a whole study, opened the same way for everything that reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from fedprofit.config_file import load_config
from fedprofit.errors import UserError
from fedprofit.evaluate.results import read_results
from fedprofit.evaluate.tradeoff import METRICS
from fedprofit.files import read_json
from fedprofit.study.folder import open_folder
from fedprofit.study.ledger import RUN, StudyFolder, labelled, read_facts, read_rounds, read_table

AGAIN = "Delete it and go on with the run: fedprofit run {0}/config.yaml --out {0} --resume"


@dataclass(frozen=True)
class Tables:
    """Results of one or more runs; every table has a run's key, its place on the axes, and `tv`."""

    path: Path
    name: str
    axes: list[str]  # the study's, without the seed; none of a single run
    results: pl.DataFrame  # of the test clients
    validation: pl.DataFrame | None  # of the validation clients, where they are personalized
    rounds: pl.DataFrame | None

    @property
    def metrics(self) -> list[str]:
        """The metrics that the results have, the one that says most first."""
        present = set(self.results["metric"])
        return [metric for metric in METRICS if metric in present]

    def metric(self, asked: str | None) -> str:
        """Return the metric asked for, or the one that says most; UserError if it was not scored."""
        if asked is None:
            return self.metrics[0]
        if asked not in self.metrics:
            raise UserError(f"{self.path}: was not scored by {asked!r}; take {' or '.join(self.metrics)}.")
        return asked


def open_tables(path: Path) -> Tables:
    """Open the folder of a complete run, or of a study, as far as it is done.

    Raises UserError for a folder that is neither, a run that is not complete, or results that do not
    belong together.
    """
    study = StudyFolder(path)
    return _of_study(study) if study.facts.exists() else _of_run(path)


def _of_study(folder: StudyFolder) -> Tables:
    facts = read_facts(folder)
    results = read_table(folder)
    axes = [axis for axis in facts["axes"] if axis != "seed"]
    return Tables(
        folder.path, facts["name"], axes, results, _optional(folder.validation), _optional(folder.rounds)
    )


def _of_run(path: Path) -> Tables:
    run = open_folder(path)
    summary = read_json(run.summary, AGAIN.format(path))
    labels = {RUN: summary["config_hash"], "tv": summary["data"]["heterogeneity"]}
    validation = _optional(run.validation)
    return Tables(
        path=path,
        name=summary["name"],
        axes=[],
        results=labelled(read_results(path), labels),
        validation=None if validation is None else labelled(validation, labels),
        rounds=read_rounds(run, load_config(path / "config.yaml")),
    )


def _optional(path: Path) -> pl.DataFrame | None:
    return pl.read_parquet(path) if path.exists() else None


def place_of(row: dict[str, object], axes: Sequence[str]) -> str:
    """Name a place on the axes.

    >>> place_of({"heterogeneity": "iid", "rounds": "5", "value": 1.0}, ["heterogeneity", "rounds"])
    'heterogeneity iid, rounds 5'
    """
    return ", ".join(f"{axis} {row[axis]}" for axis in axes)
