"""A run is a folder: what was run, on what, and what came out.

config.yaml           the configuration as run, defaults included
environment.json      versions, machine, seed, hashes of data and model
checkpoints/          the server's state after each round; what --resume goes on from
client-states/        what clients keep between rounds, of algorithms that have such state
prompts/              federated and personalized prompts (safetensors)
parts/                results by stage, and the history of each algorithm and each baseline's trial
plan.json             the work of each stage, by which to tell how far the run is
results.parquet       the tidy table of all stages
settings.parquet      all hyperparameters of each scored setting, by the id that results have
examples.parquet      every scored example: loss, answer and scores, by setting, client and scope
worst.parquet         the examples on which the methods do worst, with texts and answers
validation.parquet    the same of the validation clients, where asked for: what to choose settings by
clients.parquet       what each client trains on, by task
summary.json          means by condition, and the budget
timing.json           seconds by stage, of every process that worked on the run
run.log

All but the log carry a checksum (`sealed.py`), which is checked wherever they are read.
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

# Keys that are read of these files.
ENVIRONMENT = ("versions.fedprofit", "model.name", "model.hash", "model.dtype", "data_hash", "config_hash")
SUMMARY = ("name", "config_hash", "data.heterogeneity")
TRAIN, TRY = "train-", "try-"  # stages that leave no results: an algorithm's training, a baseline's trial


@dataclass(frozen=True)
class Folder:
    """Paths of the tables that a run and a study both have."""

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
        """What each client trains on."""
        return self.path / "clients.parquet"


class RunFolder(Folder):
    """Paths of a run, by name."""

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
        """Planned work by stage."""
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
        """Whether the run is at its end."""
        return self.summary.exists() and self.results.exists()

    @property
    def log(self) -> Path:
        """The log."""
        return self.path / "run.log"

    @property
    def dtype(self) -> str | None:
        """The number type that the run was begun in, as `backbone.dtype` names it; None before that."""
        if not self.environment.exists():
            return None
        return str(self.read_environment()["model"]["dtype"]).removeprefix("torch.")

    def read_environment(self) -> dict[str, Any]:
        """Read what the run was made with; UserError, with what to do, if that is damaged."""
        remedy = self.again("it, and summary.json if it is there,")
        return read_json(self.environment, remedy, ENVIRONMENT)

    def read_summary(self) -> dict[str, Any]:
        """Read a complete run's summary; UserError, with what to do, if it is damaged."""
        return read_json(self.summary, self.again(), SUMMARY)

    def read_config_text(self) -> str:
        """Read the configuration as run, as text; UserError if it is not as the run wrote it."""
        remedy = (
            "Restore it, or resume the run with the configuration that it was begun with. To run another "
            "one, choose another place with --out."
        )
        return read_yaml_text(self.config, remedy)

    def read_config(self) -> Config:
        """Read the configuration as run; UserError if it is not as the run wrote it."""
        mapping = parse_yaml(self.read_config_text(), self.config)
        with reading_records():  # a report needs no plug-in
            return from_mapping(upgraded(mapping), str(self.config))

    def again(self, damaged: str = "it") -> str:
        """Say how a run whose file is damaged is mended."""
        command = f"fedprofit run {self.config} --out {self.path} --resume"
        return f"Delete {damaged} and go on with the run: {command}"

    def part(self, stage: str) -> Path:
        """Return where a stage's results stand."""
        return self.path / "parts" / f"{stage}.parquet"

    @property
    def examples(self) -> Path:
        """Every scored example of the test clients."""
        return self.path / "examples.parquet"

    def stage_examples(self, stage: str) -> Path:
        """Return where the examples that a stage scored are."""
        return self.path / "examples" / f"{stage}.parquet"

    def history(self, trial: str) -> Path:
        """Return where the rounds of an algorithm, or a baseline's trial, are recorded."""
        return self.path / "parts" / f"history-{trial}.json"

    def has_history(self, config: Config) -> bool:
        """Tell whether all trials' records are here; of a run kept as a result they may not be."""
        return all(self.history(trial).exists() for trial in config.trained)

    def checkpoint(self, algorithm: str) -> Path:
        """Return the server's latest state of an algorithm."""
        return self.path / "checkpoints" / f"{algorithm}.safetensors"

    def client_states(self, algorithm: str) -> Path:
        """Return the folder of what an algorithm's clients keep between rounds."""
        return self.path / "client-states" / algorithm

    def prompts(self, stage: str) -> Path:
        """Return the prompts that a stage made."""
        return self.path / "prompts" / f"{stage}.safetensors"


def default_folder(config: Config) -> Path:
    """Name a folder after the run's name and the hash of what it computes."""
    return Path("runs") / f"{config.name}-{identity(config)[:8]}"


def check_folder(path: Path, config: Config, resume: bool) -> RunFolder:
    """Check that a run may be made, or gone on with, in this folder; write nothing.

    Raises UserError if it holds another run or anything else, or holds this run and `resume` is not
    asked for.
    """
    folder = RunFolder(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file, not a folder. Choose another place with --out.")
    if folder.config.exists():
        if not must_rewrite_config(folder, config):
            _check_same(folder, folder.read_config(), config)
        if not resume:
            raise UserError(
                f"{path}: holds this run already. Add --resume to go on with it (a complete one is shown "
                "again), or choose another place with --out."
            )
    elif path.is_dir() and any(entry.suffix != ".part" for entry in path.iterdir()):
        raise UserError(f"{path}: is not empty and not a run. Choose another place with --out.")
    return folder


def must_rewrite_config(folder: RunFolder, config: Config) -> bool:
    """Tell whether the configuration of a run is damaged, and known to be this one by its hash."""
    if not (damage(folder.config) and folder.environment.exists()):
        return False
    return bool(folder.read_environment()["config_hash"] == config.hash)


def _check_same(folder: RunFolder, kept: Config, config: Config) -> None:
    """Raise UserError unless both compute the same, where "auto" is the number type the run was begun in."""
    given = [one.backbone.dtype for one in (kept, config)]
    begun = folder.dtype or next((dtype for dtype in given if dtype != "auto"), "auto")
    kept, config = kept.in_type(begun), config.in_type(begun)
    if identity(kept) == identity(config):
        return
    asked, kept_type = config.backbone.dtype, kept.backbone.dtype
    if asked != kept_type:
        raise UserError(
            f"{folder.path}: holds a run begun in {kept_type}, and backbone.dtype is {asked} now. Set it to "
            f"{kept_type}, choose another place with --out, or remove that folder to begin anew."
        )
    raise UserError(
        f"{folder.path}: holds a run of another configuration ({folder.config} says which). Choose another "
        "place with --out, or run that configuration."
    )


def claim_folder(folder: RunFolder, config: Config) -> None:
    """Write the configuration into the folder; UserError if it cannot be written.

    What a killed process left half-written is removed: whoever calls is alone in the folder.
    """
    path = folder.path
    try:
        for stale in path.rglob(".*.part"):
            stale.unlink()
        if folder.config.exists() and (reason := damage(folder.config)):
            LOGGER.warning("written again, since %s", reason)
        write_yaml(folder.config, to_yaml(config))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}). Choose another place with --out."
        ) from None


def remove_damaged(folder: RunFolder) -> list[str]:
    """Remove what is damaged of a run, and can be made again by resuming it; say what was wrong with each.

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
    """Open a complete run for reading; UserError if it is not one."""
    folder = RunFolder(path)
    if not folder.config.exists():
        what = "holds neither a run nor a study" if path.is_dir() else "there is no such folder"
        raise UserError(f"{path}: {what}. Give the folder that `fedprofit run` or `fedprofit study` named.")
    if not folder.is_complete:
        raise UserError(
            f"{path}: the run is not complete. Go on with it: fedprofit run {path}/config.yaml "
            f"--out {path} --resume"
        )
    return folder


def read_timing(folder: RunFolder) -> dict[str, float]:
    """Read the seconds of each stage, over all processes that worked on it; empty before the first.

    Raises UserError if the file is damaged.
    """
    if not folder.timing.exists():
        return {}
    return read_json(folder.timing, "Delete it: the seconds that it holds are then counted nowhere.")


class Stopwatch:
    """Adds up the seconds of a run's stages in its folder, over all processes that work on it."""

    def __init__(self, folder: RunFolder) -> None:
        """Count from now on; `begin` says for which stage."""
        self._folder, self._stage, self._began = folder, "", time.monotonic()

    def begin(self, stage: str) -> None:
        """Count for this stage."""
        self._stage, self._began = stage, time.monotonic()

    def lap(self) -> None:
        """Write down the seconds since the stage began, or since the last lap."""
        before, self._began = self._began, time.monotonic()
        seconds = read_timing(self._folder)
        seconds[self._stage] = round(seconds.get(self._stage, 0.0) + self._began - before, 3)
        write_record(self._folder.timing, seconds)
