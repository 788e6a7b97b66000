"""Pools that compute a study's runs: processes of this machine, or a Ray cluster (`cluster.py`).

Each run is computed by `runs/run.py` in one process, with one thread by default. The pool and the number of
parallel runs do not affect results. A process reuses its backbone for later runs.
"""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from fedprofit.core.processes import end_with_parent, fresh_processes, leave_interrupts_to_parent
from fedprofit.plugins import PluginFile, load_sources, loaded_files
from fedprofit.runs.libraries import load_libraries
from fedprofit.studies.spec import PlannedRun, Value


class Pool(Protocol):
    """An executor of runs in parallel."""

    at_a_time: int  # parallel runs

    def estimate(self, runs: Sequence[PlannedRun], left: Sequence[float]) -> "Future[Any]":
        """Start to estimate the seconds of runs in this pool; `left` is each run's remaining share."""
        ...

    def submit(self, planned: PlannedRun, folder: Path) -> "Future[Any]":
        """Start or resume a run. Its folder is on this machine after `collect`."""
        ...

    def collect(self, done: "Future[Any]", folder: Path) -> float:
        """Return the run's seconds, or raise its error."""
        ...

    def has_died(self, error: BaseException) -> bool:
        """Return whether an error means that the process died."""
        ...

    def close(self) -> None:
        """Release all resources."""
        ...


# A run as plain values: a process loads plug-ins before it validates a configuration that uses them.
Described = tuple[str, dict[str, Value], dict[str, Any]]


def described(runs: Sequence[PlannedRun]) -> list[Described]:
    """Return key, axes and configuration of each run as plain values."""
    return [(run.key, run.axes, run.config.to_mapping()) for run in runs]


def compute(mapping: dict[str, Any], out: str, plugins: Sequence[PluginFile] = ()) -> float:
    """Compute or resume one run of a study with these plug-ins; return its seconds."""
    load_libraries()
    load_sources(plugins)
    import torch

    from fedprofit.config.file import from_mapping
    from fedprofit.runs.run import run

    torch.set_num_threads(1)
    began = time.monotonic()
    run(from_mapping(mapping), Path(out), resume=True)
    return time.monotonic() - began


def estimate_seconds(
    runs: Sequence[Described], at_a_time: int, left: Sequence[float], plugins: Sequence[PluginFile] = ()
) -> float:
    """Estimate a study's seconds (`estimate.py`) in a process that computes runs."""
    load_libraries()
    load_sources(plugins)
    from fedprofit.config.file import from_mapping
    from fedprofit.studies.estimate import study_seconds

    planned = [PlannedRun(key, axes, from_mapping(mapping)) for key, axes, mapping in runs]
    return study_seconds(planned, at_a_time, left)


class Processes:
    """Processes of this machine.

    Each process has its own executor, so that a process that dies does not affect the other runs.
    """

    def __init__(self, at_a_time: int) -> None:
        """Set the number of processes; start none yet."""
        self.at_a_time = at_a_time
        self._executors: list[ProcessPoolExecutor | None] = [None] * at_a_time
        self._last: list[Future[Any] | None] = [None] * at_a_time  # the last task of each process

    def estimate(self, runs: Sequence[PlannedRun], left: Sequence[float]) -> "Future[Any]":
        """Start the estimate in one of the processes, which keeps its backbone for its first run."""
        return self._start(partial(estimate_seconds, described(runs), self.at_a_time, left, loaded_files()))

    def submit(self, planned: PlannedRun, folder: Path) -> "Future[Any]":
        """Start a run in an idle process."""
        return self._start(partial(compute, planned.config.to_mapping(), str(folder), loaded_files()))

    def _start(self, task: Callable[[], float]) -> "Future[Any]":
        free = next(index for index, last in enumerate(self._last) if last is None or last.done())
        executor = self._executors[free] or _new_executor()
        try:
            future = executor.submit(task)
        except BrokenProcessPool:  # the process died
            executor = _new_executor()
            future = executor.submit(task)
        self._executors[free], self._last[free] = executor, future
        return future

    def collect(self, done: "Future[Any]", folder: Path) -> float:
        """Return the seconds; the process wrote the folder itself."""
        return float(done.result())

    def has_died(self, error: BaseException) -> bool:
        """Return whether the process died."""
        return isinstance(error, BrokenProcessPool)

    def close(self) -> None:
        """Terminate the processes at once; their runs can be resumed."""
        for executor in filter(None, self._executors):
            processes = list((executor._processes or {}).values())
            executor.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()


def _new_executor() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, fresh_processes(), initializer=_initialize, initargs=(dict(os.environ),))


def _initialize(environment: dict[str, str]) -> None:
    """Initialize a process: copy the parent's environment, ignore Ctrl-C, end with the parent."""
    os.environ.clear()
    os.environ.update(environment)  # a forked process has the environment of the server's start
    leave_interrupts_to_parent()
    end_with_parent()
