"""The folder of a run: configuration, environment and results.

config.yaml           the configuration as run, defaults included
environment.json      versions, machine, seed, hashes of data and model
checkpoints/          the server's state after each round, for --resume
client-states/        what clients keep between rounds, of algorithms that have such state
prompts/              federated and personalized prompts (safetensors)
parts/                results by stage; the history of each algorithm and each baseline's trial
plan.json             the cost of each stage, for progress
results.parquet       the tidy table of all stages
settings.parquet      all hyperparameters of each scored setting, by the id that results have
examples.parquet      every scored example: loss, answer and scores, by setting, client and scope
worst.parquet         the examples on which the methods do worst, with texts and answers
validation.parquet    the same for the validation clients, if requested: for selecting settings
clients.parquet       each client's training data, by task
summary.json          means by condition, and the budget
timing.json           seconds by stage, over all processes that computed the run
run.log

All files but the log contain a checksum (`sealed.py`), which is verified when they are read.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedprofit.config.component import reading_records
from fedprofit.config.file import from_mapping, to_yaml
from fedprofit.config.legacy import upgraded
from fedprofit.config.run import Config
from fedprofit.core.errors import UserError
from fedprofit.core.reading import damage, parse_yaml, read_json, read_yaml_text
from fedprofit.core.sealed import write_record, write_yaml
from fedprofit.runs.identity import identity

LOGGER = logging.getLogger(__name__)

# Required keys of these files.
ENVIRONMENT = ("versions.fedprofit", "model.name", "model.hash", "model.dtype", "data_hash", "config_hash")
SUMMARY = ("name", "config_hash", "data.heterogeneity")
TRAIN, TRIAL = "train-", "try-"  # stages without results: an algorithm's training, a baseline's trial


@dataclass(frozen=True)
class Folder:
    """Paths of the tables that runs and studies have in common."""

    path: Path

    @property
    def results(self) -> Path:
        """The tidy table of a complete run, or of all complete runs of a study."""
        return self.path / "results.parquet"

    @property
    def validation(self) -> Path:
        """The tidy table of the validation clients, if they are personalized."""
        return self.path / "validation.parquet"

    @property
    def settings(self) -> Path:
        """All hyperparameters of each scored setting."""
        return self.path / "settings.parquet"

    @property
    def worst(self) -> Path:
        """The worst examples, with every method's answer."""
        return self.path / "worst.parquet"

    @property
    def clients(self) -> Path:
        """The table of each client's training data."""
        return self.path / "clients.parquet"


class RunFolder(Folder):
    """Paths of a run's files."""

    @property
    def config(self) -> Path:
        """The configuration as run."""
        return self.path / "config.yaml"

    @property
    def timing(self) -> Path:
        """Seconds by stage."""
        return self.path / "timing.json"

    @property
    def plan(self) -> Path:
        """Planned cost by stage."""
        return self.path / "plan.json"

    @property
    def environment(self) -> Path:
        """Versions, machine, and hashes of data and model."""
        return self.path / "environment.json"

    @property
    def summary(self) -> Path:
        """Means by condition; the last file that a run writes."""
        return self.path / "summary.json"

    @property
    def is_complete(self) -> bool:
        """Whether the run is complete."""
        return self.summary.exists() and self.results.exists()

    @property
    def log(self) -> Path:
        """The log file."""
        return self.path / "run.log"

    @property
    def dtype(self) -> str | None:
        """The dtype that the run started with, as in `backbone.dtype`; None before the start."""
        if not self.environment.exists():
            return None
        return str(self.read_environment()["model"]["dtype"]).removeprefix("torch.")

    def read_environment(self) -> dict[str, Any]:
        """Read the environment. Raise UserError with the remedy if the file is damaged."""
        remedy = self.remedy("it, and summary.json if it is there,")
        return read_json(self.environment, remedy, ENVIRONMENT)

    def read_summary(self) -> dict[str, Any]:
        """Read the summary of a complete run. Raise UserError with the remedy if the file is damaged."""
        return read_json(self.summary, self.remedy(), SUMMARY)

    def read_config_text(self) -> str:
        """Read the text of the configuration as run. Raise UserError if the file was changed."""
        remedy = (
            "Restore it, or resume the run with the configuration that it was started with. To run another "
            "one, choose another folder with --out."
        )
        return read_yaml_text(self.config, remedy)

    def read_config(self) -> Config:
        """Read the configuration as run; UserError if it is not as the run wrote it."""
        mapping = parse_yaml(self.read_config_text(), self.config)
        with reading_records():  # a report needs no plug-in
            return from_mapping(upgraded(mapping), str(self.config))

    def remedy(self, damaged: str = "it") -> str:
        """Return the remedy for a damaged file of a run."""
        command = f"fedprofit run {self.config} --out {self.path} --resume"
        return f"Delete {damaged} and resume the run: {command}"

    def part(self, stage: str) -> Path:
        """Return the path of a stage's results."""
        return self.path / "parts" / f"{stage}.parquet"

    @property
    def examples(self) -> Path:
        """Every scored example of the test clients."""
        return self.path / "examples.parquet"

    def stage_examples(self, stage: str) -> Path:
        """Return where the examples that a stage scored are."""
        return self.path / "examples" / f"{stage}.parquet"

    def history(self, trial: str) -> Path:
        """Return the path of the record of an algorithm's rounds, or of a baseline's trial."""
        return self.path / "parts" / f"history-{trial}.json"

    def has_history(self, config: Config) -> bool:
        """Return whether the records of all trials exist; archived runs may omit them."""
        return all(self.history(trial).exists() for trial in config.trained)

    def checkpoint(self, algorithm: str) -> Path:
        """Return the path of an algorithm's latest server state."""
        return self.path / "checkpoints" / f"{algorithm}.safetensors"

    def client_states(self, algorithm: str) -> Path:
        """Return the folder of what an algorithm's clients keep between rounds."""
        return self.path / "client-states" / algorithm

    def prompts(self, stage: str) -> Path:
        """Return the path of a stage's prompts."""
        return self.path / "prompts" / f"{stage}.safetensors"


def default_folder(config: Config) -> Path:
    """Return the default folder: the run's name and the hash of what it computes."""
    return Path("runs") / f"{config.name}-{identity(config)[:8]}"


def check_folder(path: Path, config: Config, resume: bool) -> RunFolder:
    """Check that a run can be started or resumed in this folder; write nothing.

    Raises UserError if the folder contains another run or other files, or if it contains this run and
    `resume` is false.
    """
    folder = RunFolder(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file, not a folder. Choose another folder with --out.")
    if folder.config.exists():
        if not must_rewrite_config(folder, config):
            _check_same(folder, folder.read_config(), config)
        if not resume:
            raise UserError(
                f"{path}: already contains this run. Add --resume to continue it (a complete one is shown "
                "again), or choose another folder with --out."
            )
    elif path.is_dir() and any(entry.suffix != ".part" for entry in path.iterdir()):
        raise UserError(f"{path}: is not empty and not a run. Choose another folder with --out.")
    return folder


def must_rewrite_config(folder: RunFolder, config: Config) -> bool:
    """Return whether the configuration file is damaged, but its recorded hash equals this one's."""
    if not (damage(folder.config) and folder.environment.exists()):
        return False
    return bool(folder.read_environment()["config_hash"] == config.hash)


def _check_same(folder: RunFolder, recorded: Config, config: Config) -> None:
    """Raise UserError if the runs differ; dtype "auto" means the dtype that the run started with."""
    given = [one.backbone.dtype for one in (recorded, config)]
    original = folder.dtype or next((dtype for dtype in given if dtype != "auto"), "auto")
    recorded, config = recorded.in_type(original), config.in_type(original)
    if identity(recorded) == identity(config):
        return
    asked, known = config.backbone.dtype, recorded.backbone.dtype
    if asked != known:
        raise UserError(
            f"{folder.path}: contains a run started in {known}, but backbone.dtype is {asked}. Set it to "
            f"{known}, choose another folder with --out, or remove that folder to start again."
        )
    raise UserError(
        f"{folder.path}: contains a run of another configuration (see {folder.config}). Choose another "
        "folder with --out, or run that configuration."
    )


def claim_folder(folder: RunFolder, config: Config) -> None:
    """Write the configuration into the folder. Raise UserError if it is not writable.

    Removes temporary files of killed processes; the caller must hold the folder's lock.
    """
    path = folder.path
    try:
        for stale in path.rglob(".*.part"):
            stale.unlink()
        if folder.config.exists() and (reason := damage(folder.config)):
            LOGGER.warning("rewritten, since %s", reason)
        write_yaml(folder.config, to_yaml(config))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}). Choose another folder with --out."
        ) from None


def remove_damaged(folder: RunFolder) -> list[str]:
    """Remove a run's damaged files that resuming creates again; return the damage of each.

    Without its prompts or its examples, a stage is computed again as a whole.
    """
    found = []
    for pattern in ("*.parquet", "parts/*", "examples/*", "prompts/*", "checkpoints/*"):
        found += sorted(folder.path.glob(pattern))
    reasons = []
    for file in [*found, folder.plan, folder.timing, folder.summary]:
        reason = damage(file) if file.exists() else ""
        if reason:
            reasons.append(reason)
            file.unlink()
            if file in (folder.prompts(file.stem), folder.stage_examples(file.stem)):
                folder.part(file.stem).unlink(missing_ok=True)
    return reasons


def open_folder(path: Path) -> RunFolder:
    """Open a complete run for reading. Raise UserError if it is missing or unfinished."""
    folder = RunFolder(path)
    if not folder.config.exists():
        what = "contains neither a run nor a study" if path.is_dir() else "there is no such folder"
        raise UserError(f"{path}: {what}. Give the folder of a `fedprofit run` or `fedprofit study`.")
    if not folder.is_complete:
        raise UserError(
            f"{path}: the run is unfinished. Resume it: fedprofit run {path}/config.yaml "
            f"--out {path} --resume"
        )
    return folder


def read_timing(folder: RunFolder) -> dict[str, float]:
    """Read the seconds of each stage, over all processes that computed it; empty if there is no file.

    Raises UserError if the file is damaged.
    """
    if not folder.timing.exists():
        return {}
    return read_json(folder.timing, "Delete it; its seconds are then missing from the totals.")


class Stopwatch:
    """Add up the seconds of a run's stages in its folder, over all processes that compute it."""

    def __init__(self, folder: RunFolder) -> None:
        """Start the clock; `begin` sets the stage."""
        self._folder, self._stage, self._began = folder, "", time.monotonic()

    def begin(self, stage: str) -> None:
        """Start the clock for this stage."""
        self._stage, self._began = stage, time.monotonic()

    def lap(self) -> None:
        """Record the seconds since the stage began or since the last lap."""
        before, self._began = self._began, time.monotonic()
        seconds = read_timing(self._folder)
        seconds[self._stage] = round(seconds.get(self._stage, 0.0) + self._began - before, 3)
        write_record(self._folder.timing, seconds)
