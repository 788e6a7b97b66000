"""How far the runs of a study are while they run, from what each leaves in its folder."""

from collections.abc import Collection, Sequence
from pathlib import Path

from fedprofit.files import read_json
from fedprofit.study.folder import RunFolder, read_timing
from fedprofit.study.progress import Quiet

STEP = 0.05  # share of the work after which it is told again


def share_done(folder: RunFolder) -> float:
    """Return which share of its planned work a run has done; 0 before it has begun.

    A run on another machine shows nothing here until it comes back.
    """
    if not folder.plan.exists():
        return 0.0
    plan: dict[str, float] = read_json(folder.plan, "Delete it; the run writes it again.")
    ready = sum(plan.get(stage, 0.0) for stage in read_timing(folder))
    return min(1.0, ready / max(sum(plan.values()), 1e-9))


class Watch:
    """Looks at the folders of a study's runs and tells how much is done, and how much time is left."""

    def __init__(self, folders: Sequence[Path], report: Quiet) -> None:
        """Take what is left to do in these folders as the work."""
        self._report = report
        self._shares = {folder: share_done(RunFolder(folder)) for folder in folders}
        self._told = 0.0
        self._total = sum(1 - share for share in self._shares.values())
        self._done = 0.0
        report.plan(None, self._total)

    def look(self, running: Collection[Path], ended: Collection[Path]) -> None:
        """Count what the running ones have done since the last look; those that ended are whole."""
        now = {folder: share_done(RunFolder(folder)) for folder in running} | dict.fromkeys(ended, 1.0)
        gained = sum(max(0.0, share - self._shares[folder]) for folder, share in now.items())
        self._shares |= {folder: max(share, self._shares[folder]) for folder, share in now.items()}
        self._done += gained
        self._report.advance(gained)
        if self._done - self._told >= STEP * self._total > 0:
            self._told = self._done
            whole = sum(share == 1.0 for share in self._shares.values())
            self._report.begin(
                f"{whole} of {len(self._shares)} runs, {self._done / self._total:.0%} of the work"
            )
