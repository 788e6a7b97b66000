"""Progress of a study's runs, read from their folders while they run."""

from collections.abc import Collection, Sequence
from heapq import heapreplace
from pathlib import Path
from statistics import mean

from fedprofit.core.errors import UserError
from fedprofit.core.reading import read_json
from fedprofit.runs.folder import TRAIN, RunFolder, read_timing
from fedprofit.runs.progress import Quiet

STEP = 0.05  # share of the planned cost between two progress messages


def cost_of(folder: RunFolder) -> tuple[float, float]:
    """Return a run's planned cost and its completed part; zeros if it has not started.

    The progress of a run on another machine is unknown until it ends.
    """
    if not folder.plan.exists():
        return 0.0, 0.0
    try:
        plan: dict[str, float] = read_json(folder.plan, "")
        ended = [stage for stage in read_timing(folder) if not _is_training(folder, stage)]
        return sum(plan.values()), sum(plan.get(stage, 0.0) for stage in ended)
    except UserError:  # incomplete file; the run writes it again
        return 0.0, 0.0


def _is_training(folder: RunFolder, stage: str) -> bool:
    """Return whether a training stage is unfinished: only some of its rounds have been timed."""
    return stage.startswith(TRAIN) and not folder.history(stage.removeprefix(TRAIN)).exists()


def share_left(folder: RunFolder) -> float:
    """Return the remaining share of a run's cost: 1 if it has not started."""
    planned, done = cost_of(folder)
    return 1 - done / planned if planned else 1.0


def finish_time(lengths: Sequence[float], workers: int) -> float:
    """Return when the last of some jobs ends if each starts, in order, on the first free worker.

    >>> finish_time([2, 3, 2], workers=2), finish_time([], workers=0)
    (4.0, 0.0)
    """
    ends = [0.0] * workers
    for length in lengths:
        heapreplace(ends, ends[0] + length)
    return max(ends, default=0.0)


class Watch:
    """Report the progress and the remaining time of a study from the folders of its runs."""

    def __init__(self, folders: Sequence[Path], at_a_time: int, report: Quiet) -> None:
        """Set the remaining cost of the runs in these folders as the total."""
        self._workers, self._report = min(at_a_time, len(folders)), report
        self._costs = {folder: cost_of(RunFolder(folder)) for folder in folders}
        self._complete, self._failed = 0, 0
        self._reported = 0.0
        report.plan(None, self._rest())

    def update(self, running: Collection[Path], complete: Collection[Path], failed: Collection[Path]) -> None:
        """Add the progress since the last call, and drop failed runs from the total."""
        before = self._done()
        for folder in [*running, *complete]:
            self._costs[folder] = cost_of(RunFolder(folder))
        for folder in complete:
            planned = self._costs[folder][0] or self._typical()
            self._costs[folder] = (planned, planned)
        for folder in failed:
            del self._costs[folder]
        self._complete += len(complete)
        self._failed += len(failed)
        self._report.advance(max(0.0, self._done() - before))
        self._report.expect(self._rest())
        share = self._done() / max(self._done() + self._rest(), 1e-9)
        if complete or failed or share - self._reported >= STEP:
            self._reported = share
            total = len(self._costs) + self._failed
            failures = f", {self._failed} failed" if self._failed else ""
            self._report.begin(f"{self._complete} of {total} runs{failures}, {share:.0%} of the work")

    def _typical(self) -> float:
        return mean([planned for planned, _ in self._costs.values() if planned] or [1.0])

    def _done(self) -> float:
        return sum(done for _, done in self._costs.values())

    def _rest(self) -> float:
        """Return the remaining cost, as if all workers were busy until the last run ends."""
        typical = self._typical()
        rests = [(planned or typical) - done for planned, done in self._costs.values()]
        return self._workers * finish_time(rests, self._workers)
