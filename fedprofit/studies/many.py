"""Running a study: its runs side by side, whatever happens to some of them.

Each run has a folder of its own and goes to a pool (`pools.py`). A run that fails is gone on with once
more, in a new process if its own died, and reported if it fails again; one whose rows do not belong into the
table, or cannot be read, is reported at once. The others go on.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polars.exceptions import PolarsError

from fedprofit.core.errors import UserError
from fedprofit.core.files import alone_in, naming_place
from fedprofit.core.processes import usable_cores
from fedprofit.data.federated import check_sources
from fedprofit.runs.folder import RunFolder
from fedprofit.runs.progress import Quiet, duration
from fedprofit.studies.admission import admit
from fedprofit.studies.cluster import Cluster
from fedprofit.studies.ledger import (
    COMPUTE_AGAIN,
    StudyFolder,
    add,
    claim,
    missing,
    write_facts,
    write_failures,
)
from fedprofit.studies.pools import Pool, Processes
from fedprofit.studies.spec import PlannedRun, describe, load_study
from fedprofit.studies.watch import Watch, share_left

ATTEMPTS = 2
LOOK = 5.0  # seconds between two looks at how far the runs are


def run_study(
    path: Path,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    workers: int | None = None,
    resume: bool = False,
    yes: bool = False,
    ray: str | None = None,
    report: Quiet | None = None,
    only: Sequence[str] = (),
    foresee: bool = False,
) -> tuple[StudyFolder, "Progress"]:
    """Run a study, or go on with it, and return its folder and what became of its runs.

    Args:
        path: the study's YAML file (see `spec.py`).
        overrides: `key.sub=value`, changes of the configuration that its runs share.
        out: the folder; `runs/NAME` if not given.
        workers: processes side by side; one a core if not given.
        resume: go on with the study in that folder.
        yes: run it even if it has more runs than it says it should.
        ray: send its runs to the Ray cluster at this address ("local": one on this machine) instead.
        report: how to tell of progress; silent if not given.
        only: places on the axes, `AXIS=VALUE`: run what lies there, and leave the rest for another time.
        foresee: before the start, measure how fast it is here, and tell how long it may take.

    Raises UserError for anything wrong with the study, a configuration or the folder. A run that fails is
    no error: it is in `failures.json`.
    """
    study, runs = load_study(path, overrides, only, yes)
    place = out or Path("runs") / study.name
    if ray is None and not place.exists():  # a study that has begun says of each run what is wrong with it
        check_sources(run.config.data for run in runs)
    with naming_place(place):
        pool: Pool
        pool = Processes(workers or usable_cores()) if ray is None else Cluster(ray, workers, runs)
        try:
            folder = claim(place, study, resume)
            with alone_in(folder.path):
                runs = admit(folder, study, runs)
                write_facts(folder, study)
                if foresee:
                    tell_time(folder, runs, pool, report or Quiet())
                return folder, run_all(folder, runs, pool, report or Quiet())
        finally:
            pool.close()


def tell_time(folder: StudyFolder, runs: Sequence[PlannedRun], pool: Pool, report: Quiet) -> None:
    """Tell how many runs are to do, and about how long they may take where they are computed."""
    queue = missing(folder, runs)
    report.say(f"{len(queue)} of {len(runs)} runs to do, {pool.at_a_time} at a time")
    if not queue:
        return
    left = [share_left(RunFolder(folder.run(planned.key))) for planned in queue]
    found = pool.foresee(queue, left)
    # What is wrong with a run is told when it is tried.
    error = found.exception()
    report.say(f"how long cannot be told: {told(error)}" if error else f"about {duration(found.result())}")


def told(error: BaseException) -> str:
    """Say what a run failed with, wherever it was: Ray wraps errors in where they came from."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}"


@dataclass
class Progress:
    """What is done and what failed."""

    total: int
    done: int = 0
    failed: list[dict[str, Any]] = field(default_factory=list)


def run_all(folder: StudyFolder, runs: Sequence[PlannedRun], pool: Pool, report: Quiet) -> Progress:
    """Run what is not in the study's table yet; return what became of it.

    After every run its rows are in the table on disk: a study that is killed goes on from there.
    """
    queue = missing(folder, runs)
    progress = Progress(len(queue))
    watch = Watch([folder.run(planned.key) for planned in queue], pool.at_a_time, report)
    attempts = Counter[str]()
    running: dict[Future[Any], PlannedRun] = {}
    while queue or running:
        while queue and len(running) < pool.at_a_time:
            planned = queue.pop(0)
            running[pool.submit(planned, folder.run(planned.key))] = planned
        finished, _ = wait(running, timeout=LOOK, return_when=FIRST_COMPLETED)
        complete, failed = [], []
        for future in finished:
            planned = running.pop(future)
            attempts[planned.key] += 1
            ended, where = _take(folder, planned, future, pool), describe(planned.axes)
            if ended.mendable and attempts[planned.key] < ATTEMPTS:
                report.say(f"run failed, goes on once more: {where}: {ended.reason}")
                queue.append(planned)
            elif ended.reason:
                report.say(f"run failed: {where}: {ended.reason}")
                facts = {"axes": planned.axes, "attempts": attempts[planned.key], "error": ended.reason}
                progress.failed.append({"run": planned.key, **facts})
                failed.append(folder.run(planned.key))
            else:
                progress.done += 1
                count = f"run {progress.done} of {progress.total}"
                report.say(f"{count} complete in {duration(ended.seconds)}: {where}")
                complete.append(folder.run(planned.key))
        if failed:  # at once: what ends the study now takes none along
            write_failures(folder, progress.failed, runs)
        watch.look([folder.run(planned.key) for planned in running.values()], complete, failed)
    write_failures(folder, progress.failed, runs)
    return progress


@dataclass(frozen=True)
class _Ended:
    """How a run's attempt ended."""

    seconds: float = 0.0
    reason: str = ""  # that it failed for; none where its rows are in the table
    mendable: bool = False  # whether another attempt may end otherwise


def _take(folder: StudyFolder, planned: PlannedRun, future: "Future[Any]", pool: Pool) -> _Ended:
    """Take a run that has ended into the table, or say why not."""
    error = future.exception()
    if error is not None:
        return _Ended(reason="its process died" if pool.has_died(error) else told(error), mendable=True)
    seconds = pool.collect(future, folder.run(planned.key))
    try:
        add(folder, planned)
    except UserError as refused:
        return _Ended(reason=str(refused))
    except (KeyError, ValueError, PolarsError) as damaged:  # of files without a checksum
        run = folder.run(planned.key)
        return _Ended(reason=f"{run}: its rows cannot be added ({told(damaged)}). {COMPUTE_AGAIN}")
    return _Ended(seconds)
