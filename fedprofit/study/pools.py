"""Where a study's runs are computed: processes of this machine, or, in `cluster.py`, a Ray cluster.

Each run is `study/run.py`'s, computed by one process with one thread unless its configuration says
otherwise: where, and how many at a time, changes no number. A process keeps its backbone from run to run.
"""

import signal
import time
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

from fedprofit.backbone.workers import end_with_parent
from fedprofit.study.spec import PlannedRun


class Pool(Protocol):
    """Something that computes runs side by side."""

    at_a_time: int  # runs

    def submit(self, planned: PlannedRun, folder: Path) -> "Future[Any]":
        """Start a run, or go on with it; its folder is on this machine once it is collected."""
        ...

    def collect(self, done: "Future[Any]", folder: Path) -> float:
        """Return the run's seconds, or raise what it failed with."""
        ...

    def has_died(self, error: BaseException) -> bool:
        """Tell whether an error is that of a process that died, rather than of the run."""
        ...

    def renew(self) -> None:
        """Replace what has died."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


def compute(mapping: dict[str, Any], out: str) -> float:
    """Compute one run of a study, or go on with it; return its seconds."""
    import torch

    from fedprofit.config_file import from_mapping
    from fedprofit.study.run import run

    torch.set_num_threads(1)
    began = time.monotonic()
    run(from_mapping(mapping), Path(out), resume=True)
    return time.monotonic() - began


class Processes:
    """Processes of this machine."""

    def __init__(self, at_a_time: int) -> None:
        """Start no process yet."""
        self.at_a_time = at_a_time
        self._pool = self._make()

    def _make(self) -> ProcessPoolExecutor:
        # Spawned, not forked: a parent that has computed with threads cannot be copied safely.
        return ProcessPoolExecutor(self.at_a_time, get_context("spawn"), initializer=_begin)

    def submit(self, planned: PlannedRun, folder: Path) -> "Future[Any]":
        """Hand a run to a process."""
        try:
            return self._pool.submit(compute, planned.config.to_mapping(), str(folder))
        except BrokenProcessPool:  # one died since the last look
            self.renew()
            return self._pool.submit(compute, planned.config.to_mapping(), str(folder))

    def collect(self, done: "Future[Any]", folder: Path) -> float:
        """Return the seconds; the folder was written in place."""
        return float(done.result())

    def has_died(self, error: BaseException) -> bool:
        """Tell whether the process died; all that ran beside it come back the same way."""
        return isinstance(error, BrokenProcessPool)

    def renew(self) -> None:
        """Start again with new processes."""
        self._pool.shutdown(wait=False)
        self._pool = self._make()

    def close(self) -> None:
        """End the processes, whatever they are at: their runs can be gone on with."""
        processes = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()


def _begin() -> None:
    """Prepare a process: no interruption of its own, no life without its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
