"""Running a study: its runs side by side, a process for each core, whatever happens to some of them.

Each run is `study/run.py`'s, in a folder of its own, computed by one process with one thread: how many
of them run at a time changes no number. A process keeps its backbone from run to run. A run that fails
is gone on with once more, in a new process if its own died, and reported if it fails again.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from fedprofit.backbone.workers import end_with_parent
from fedprofit.errors import UserError
from fedprofit.files import naming_full_disk
from fedprofit.study.ledger import StudyFolder, add, claim, done, write_failures
from fedprofit.study.progress import duration
from fedprofit.study.spec import PlannedRun, Study, describe, load_study

ATTEMPTS = 2
Say = Callable[[str], None]


def compute(mapping: dict[str, Any], out: str) -> float:
    """Compute one run of a study, or go on with it; return its seconds."""
    import torch

    from fedprofit.config_file import from_mapping
    from fedprofit.study.run import run

    torch.set_num_threads(1)
    began = time.monotonic()
    run(from_mapping(mapping), Path(out), resume=True)
    return time.monotonic() - began


def run_study(
    path: Path,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    workers: int | None = None,
    resume: bool = False,
    yes: bool = False,
    say: Say = print,
) -> tuple[StudyFolder, "Progress"]:
    """Run a study, or go on with it, and return its folder and what became of its runs.

    Args:
        path: the study's YAML file (see `spec.py`).
        overrides: `key.sub=value`, changes of the configuration that its runs share.
        out: the folder; `runs/NAME` if not given.
        workers: processes side by side; one a core if not given.
        resume: go on with the study in that folder.
        yes: run it even if it has more runs than it says it should.
        say: how to tell of progress, line by line.

    Raises UserError for anything wrong with the study, a configuration or the folder. A run that fails is
    no error: it is in `failures.json`.
    """
    study, runs = load_study(path, overrides)
    check_size(study, runs, yes)
    place = out or Path("runs") / study.name
    with naming_full_disk(place):
        folder = claim(place, study, resume)
        return folder, run_all(folder, runs, workers or os.cpu_count() or 1, say)


def check_size(study: Study, runs: Sequence[PlannedRun], yes: bool) -> None:
    """Raise UserError if there are more runs than the study says, unless told to go on."""
    if len(runs) > study.most_runs and not yes:
        raise UserError(
            f"study {study.name!r}: {len(runs)} runs, more than its most_runs ({study.most_runs}). Take "
            "values off its axes, raise most_runs, or go on with --yes."
        )


@dataclass
class Progress:
    """What is done, what failed, and how long the rest may take."""

    total: int
    workers: int
    seconds: list[float] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)

    def left(self) -> str:
        """Say how long the rest may take; "" before the first run is done."""
        rest = self.total - len(self.seconds) - len(self.failed)
        if not self.seconds or not rest:
            return ""
        each = sum(self.seconds) / len(self.seconds)
        return f", about {duration(each * rest / min(self.workers, rest))} left"


def run_all(folder: StudyFolder, runs: Sequence[PlannedRun], workers: int, say: Say) -> Progress:
    """Run what is not in the study's table yet; return what became of it.

    After every run its rows are in the table on disk: a study that is killed goes on from there.
    """
    known = done(folder)
    queue = [planned for planned in runs if planned.key not in known]
    progress = Progress(len(queue), workers)
    attempts: dict[str, int] = {}
    running: dict[Future[float], PlannedRun] = {}
    pool = _pool(workers)
    try:
        while queue or running:
            while queue and len(running) < workers:
                planned = queue.pop(0)
                config, place = planned.config.to_mapping(), str(folder.run(planned.key))
                running[pool.submit(compute, config, place)] = planned
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            broken = False
            for future in finished:
                planned, error = running.pop(future), future.exception()
                broken |= isinstance(error, BrokenProcessPool)
                if error is None:
                    add(folder, planned)
                    progress.seconds.append(future.result())
                    count = f"{len(progress.seconds)} of {progress.total}"
                    took = duration(future.result())
                    say(f"run {count} complete in {took}: {describe(planned.axes)}{progress.left()}")
                    continue
                attempts[planned.key] = attempts.get(planned.key, 0) + 1
                _failed(planned, error, attempts[planned.key], queue, progress, say)
            if broken:  # all that were running with it come back the same way
                pool.shutdown(wait=False)
                pool = _pool(workers)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    write_failures(folder, progress.failed)
    return progress


def _failed(
    planned: PlannedRun,
    error: BaseException,
    attempt: int,
    queue: list[PlannedRun],
    progress: Progress,
    say: Say,
) -> None:
    died = isinstance(error, BrokenProcessPool)
    reason = "its process died" if died else f"{type(error).__name__}: {error}"
    if attempt < ATTEMPTS:
        say(f"run failed, goes on once more: {describe(planned.axes)}: {reason}")
        queue.append(planned)
    else:
        say(f"run failed: {describe(planned.axes)}: {reason}")
        progress.failed.append(
            {"run": planned.key, "axes": planned.axes, "attempts": attempt, "error": reason}
        )


def _pool(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: a parent that has computed with threads cannot be copied safely.
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin)


def _begin() -> None:
    """Prepare a process: no interruption of its own, no life without its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
