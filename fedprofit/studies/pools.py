"""Where a study's runs are computed: processes of this machine, or, in `cluster.py`, a Ray cluster.

Each run is `study/run.py`'s, computed by one process with one thread unless its configuration says
otherwise: where, and how many at a time, changes no number. A process keeps its backbone from run to run.
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
    """Something that computes runs side by side."""

    at_a_time: int  # runs

    def foresee(self, runs: Sequence[PlannedRun], left: Sequence[float]) -> "Future[Any]":
        """Start to estimate the seconds that runs take here, of each of which such a share is left."""
        ...

    def submit(self, planned: PlannedRun, folder: Path) -> "Future[Any]":
        """Start a run, or go on with it; its folder is on this machine once it is collected."""
        ...

    def collect(self, done: "Future[Any]", folder: Path) -> float:
        """Return the run's seconds, or raise what it failed with."""
        ...

    def has_died(self, error: BaseException) -> bool:
        """Tell whether an error is that of a process that died, rather than of the run."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


# A run as plain values: a process must load plug-ins before it can read a configuration that uses them.
Described = tuple[str, dict[str, Value], dict[str, Any]]


def described(runs: Sequence[PlannedRun]) -> list[Described]:
    """Return runs as plain values: key, axes, configuration."""
    return [(run.key, run.axes, run.config.to_mapping()) for run in runs]


def compute(mapping: dict[str, Any], out: str, plugins: Sequence[PluginFile] = ()) -> float:
    """Compute one run of a study, or resume it, with these plug-ins; return its seconds."""
    load_libraries()
    load_sources(plugins)
    import torch

    from fedprofit.config.file import from_mapping
    from fedprofit.runs.run import run

    torch.set_num_threads(1)
    began = time.monotonic()
    run(from_mapping(mapping), Path(out), resume=True)
    return time.monotonic() - began


def foresee(
    runs: Sequence[Described], at_a_time: int, left: Sequence[float], plugins: Sequence[PluginFile] = ()
) -> float:
    """Estimate a study's seconds (`estimate.py`) where its runs are computed."""
    load_libraries()
    load_sources(plugins)
    from fedprofit.config.file import from_mapping
    from fedprofit.studies.estimate import study_seconds

    planned = [PlannedRun(key, axes, from_mapping(mapping)) for key, axes, mapping in runs]
    return study_seconds(planned, at_a_time, left)


class Processes:
    """Processes of this machine.

    Each is a pool of its own, so that one that dies takes no other's run along.
    """

    def __init__(self, at_a_time: int) -> None:
        """Start no process yet."""
        self.at_a_time = at_a_time
        self._pools: list[ProcessPoolExecutor | None] = [None] * at_a_time
        self._last: list[Future[Any] | None] = [None] * at_a_time  # what each was given last

    def foresee(self, runs: Sequence[PlannedRun], left: Sequence[float]) -> "Future[Any]":
        """Start to estimate in one of the processes, which keeps its backbone for its first run."""
        return self._give(partial(foresee, described(runs), self.at_a_time, left, loaded_files()))

    def submit(self, planned: PlannedRun, folder: Path) -> "Future[Any]":
        """Hand a run to a process that has none."""
        return self._give(partial(compute, planned.config.to_mapping(), str(folder), loaded_files()))

    def _give(self, task: Callable[[], float]) -> "Future[Any]":
        free = next(place for place, last in enumerate(self._last) if last is None or last.done())
        pool = self._pools[free] or _make()
        try:
            future = pool.submit(task)
        except BrokenProcessPool:  # its process has died
            pool = _make()
            future = pool.submit(task)
        self._pools[free], self._last[free] = pool, future
        return future

    def collect(self, done: "Future[Any]", folder: Path) -> float:
        """Return the seconds; the folder was written in place."""
        return float(done.result())

    def has_died(self, error: BaseException) -> bool:
        """Tell whether the process died."""
        return isinstance(error, BrokenProcessPool)

    def close(self) -> None:
        """End the processes, whatever they are at: their runs can be gone on with."""
        for pool in filter(None, self._pools):
            processes = list((pool._processes or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()


def _make() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, fresh_processes(), initializer=_begin, initargs=(dict(os.environ),))


def _begin(environment: dict[str, str]) -> None:
    """Prepare a process: its parent's environment, no interruption of its own, no life without its parent."""
    os.environ.clear()
    os.environ.update(environment)  # a copy of a server has that of the server's start
    leave_interrupts_to_parent()
    end_with_parent()
