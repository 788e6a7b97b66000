"""Run a study: its runs in parallel, isolated from each other's failures.

Each run has its own folder and is computed by a pool (`pools.py`). A failed run is resumed once, in a new
process if its process died, and reported if it fails again. A run whose rows cannot be read or added to the
table is reported at once. The other runs continue.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polars.exceptions import PolarsError

from fedprofit.core.errors import UserError
from fedprofit.core.files import exclusive_lock, path_in_errors
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
INTERVAL = 5.0  # seconds between two checks of the runs' progress


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
    estimate: bool = False,
) -> tuple[StudyFolder, "Progress"]:
    """Start or resume a study; return its folder and the outcome of its runs.

    Args:
        path: the study's YAML file (see `spec.py`).
        overrides: `key.sub=value` changes of the configuration that its runs share.
        out: the folder; default `runs/NAME`.
        workers: parallel processes; default one per core.
        resume: resume the study in that folder.
        yes: run it even if it has more runs than its limit.
        ray: use the Ray cluster at this address instead; "local" starts one on this machine.
        report: progress reporter; silent by default.
        only: `AXIS=VALUE` filters; other runs are left for later.
        estimate: measure the speed first and report the estimated time.

    Raises UserError for a problem with the study, a configuration or the folder. A failed run raises no
    error: it is recorded in `failures.json`.
    """
    study, runs = load_study(path, overrides, only, yes)
    out = out or Path("runs") / study.name
    if ray is None and not out.exists():  # a study in progress reports problems per run
        check_sources(run.config.data for run in runs)
    with path_in_errors(out):
        pool: Pool
        pool = Processes(workers or usable_cores()) if ray is None else Cluster(ray, workers, runs)
        try:
            folder = claim(out, study, resume)
            with exclusive_lock(folder.path):
                runs = admit(folder, study, runs)
                write_facts(folder, study)
                if estimate:
                    report_time(folder, runs, pool, report or Quiet())
                return folder, run_all(folder, runs, pool, report or Quiet())
        finally:
            pool.close()


def report_time(folder: StudyFolder, runs: Sequence[PlannedRun], pool: Pool, report: Quiet) -> None:
    """Report the number of remaining runs and their estimated time where they are computed."""
    queue = missing(folder, runs)
    report.say(f"{len(queue)} of {len(runs)} runs remaining, {pool.at_a_time} in parallel")
    if not queue:
        return
    left = [share_left(RunFolder(folder.run(planned.key))) for planned in queue]
    estimate = pool.estimate(queue, left)
    # Errors of a run are reported when it runs.
    error = estimate.exception()
    report.say(
        f"the time is unknown: {describe_error(error)}" if error else f"about {duration(estimate.result())}"
    )


def describe_error(error: BaseException) -> str:
    """Describe a run's error. Ray wraps the original error as its `cause`."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}"


@dataclass
class Progress:
    """Counts of finished runs, and the failed runs."""

    total: int
    done: int = 0
    failed: list[dict[str, Any]] = field(default_factory=list)


def run_all(folder: StudyFolder, runs: Sequence[PlannedRun], pool: Pool, report: Quiet) -> Progress:
    """Run the runs that are missing in the study's table; return their outcome.

    Each run's rows are added to the table on disk when it ends, so that a killed study can be resumed.
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
        finished, _ = wait(running, timeout=INTERVAL, return_when=FIRST_COMPLETED)
        complete, failed = [], []
        for future in finished:
            planned = running.pop(future)
            attempts[planned.key] += 1
            ended, name = _collect(folder, planned, future, pool), describe(planned.axes)
            if ended.retryable and attempts[planned.key] < ATTEMPTS:
                report.say(f"run failed, trying once more: {name}: {ended.reason}")
                queue.append(planned)
            elif ended.reason:
                report.say(f"run failed: {name}: {ended.reason}")
                facts = {"axes": planned.axes, "attempts": attempts[planned.key], "error": ended.reason}
                progress.failed.append({"run": planned.key, **facts})
                failed.append(folder.run(planned.key))
            else:
                progress.done += 1
                count = f"run {progress.done} of {progress.total}"
                report.say(f"{count} complete in {duration(ended.seconds)}: {name}")
                complete.append(folder.run(planned.key))
        if failed:  # write at once, in case the study is killed
            write_failures(folder, progress.failed, runs)
        watch.update([folder.run(planned.key) for planned in running.values()], complete, failed)
    write_failures(folder, progress.failed, runs)
    return progress


@dataclass(frozen=True)
class _Ended:
    """The end of a run's attempt."""

    seconds: float = 0.0
    reason: str = ""  # why it failed; empty if its rows are in the table
    retryable: bool = False  # whether another attempt may succeed


def _collect(folder: StudyFolder, planned: PlannedRun, future: "Future[Any]", pool: Pool) -> _Ended:
    """Add a finished run to the table, or return why it failed."""
    error = future.exception()
    if error is not None:
        return _Ended(
            reason="its process died" if pool.has_died(error) else describe_error(error), retryable=True
        )
    seconds = pool.collect(future, folder.run(planned.key))
    try:
        add(folder, planned)
    except UserError as refusal:
        return _Ended(reason=str(refusal))
    except (KeyError, ValueError, PolarsError) as damage:  # from files without a checksum
        run = folder.run(planned.key)
        return _Ended(reason=f"{run}: its rows cannot be added ({describe_error(damage)}). {COMPUTE_AGAIN}")
    return _Ended(seconds)
