"""Worker processes that compute on one frozen backbone, one core each.

Two cores that share a pass synchronize at every small kernel, about two hundred times a layer. Two cores with
a micro-batch each do not. Workers are forked and share the weights with the parent: a worker needs memory
only for its activations.
"""

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedprofit.backbone.batches import PASS_TOKENS
from fedprofit.backbone.load import Backbone
from fedprofit.core.processes import (
    end_with_parent,
    interrupts_held,
    killed_with_parent,
    leave_interrupts_to_parent,
    main_thread_of,
)

Task = tuple[Any, ...]  # tensors and plain values

_inherited: Backbone | None = None  # in a worker: the parent's backbone


class Workers:
    """`count` worker processes, forked at first use; a count of 1 computes in this process."""

    def __init__(self, backbone: Backbone, count: int) -> None:
        """Store the arguments; processes start at first use."""
        self.backbone = backbone
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    def map(self, function: Callable[..., Task], tasks: Sequence[Task]) -> Iterator[Task]:
        """Yield `function(backbone, *task)` for each task, in order.

        Args:
            function: a module-level function, so that it can be pickled by name.
            tasks: tuples of tensors and plain values; `function` must return such a tuple too.

        Raises:
            MemoryError: a worker was killed; Linux kills processes when memory runs out.
        """
        if self.count == 1 or len(tasks) < 2:
            yield from (function(self.backbone, *task) for task in tasks)
            return
        if self._pool is None:
            given = (self.backbone, main_thread_of())
            self._pool = ProcessPoolExecutor(
                self.count, get_context("fork"), initializer=_begin, initargs=given
            )
        running: list[Future[Any]] = []
        try:  # submitting fails if a worker was killed since the last call
            with interrupts_held():  # the first tasks fork the processes
                running += [self._pool.submit(_call, function, _arrays(task)) for task in tasks]
            yield from (_tensors(future.result()) for future in running)
        except BrokenProcessPool as error:
            self._pool = None
            raise MemoryError("a worker process was killed") from error
        finally:
            for future in running:
                future.cancel()

    def processes(self) -> list[int]:
        """Return the process ids of the running workers."""
        return [] if self._pool is None else list(self._pool._processes)


def worker_count(setting: int | str, backbone: Backbone, token_budget: int) -> int:
    """Resolve the setting `workers`: "auto" is one per core, but at least `PASS_TOKENS` tokens each.

    The count is 1 on a GPU and on systems where forking is not safe.
    """
    if backbone.device.type != "cpu" or sys.platform != "linux":
        return 1
    if isinstance(setting, int):
        return setting
    return max(1, min(torch.get_num_threads(), token_budget // PASS_TOKENS))


@lru_cache(maxsize=2)
def shared_workers(backbone: Backbone, count: int) -> Workers:
    """Return the workers of a backbone, shared by all engines of a process."""
    return Workers(backbone, count)


def peak_private_bytes(process: int) -> int:
    """Return the peak memory of a worker in bytes, without memory shared with its parent.

    It is the present private memory plus the difference between peak and present total memory. This is an
    upper bound: the difference may include pages that the worker shared with its parent.
    """
    private = sum(size for name, size in _sizes(process, "smaps_rollup") if name.startswith("Private_"))
    total = dict(_sizes(process, "status"))
    return private + max(0, total["VmHWM"] - total["VmRSS"])


def _sizes(process: int, file: str) -> Iterator[tuple[str, int]]:
    """Yield names and bytes of the lines like `VmRSS: 123 kB` of `/proc/PROCESS/FILE`."""
    for line in Path(f"/proc/{process}/{file}").read_text().splitlines():
        if line.endswith(" kB"):
            name, _, size = line.partition(":")
            yield name, int(size.removesuffix("kB")) * 1024


def _begin(backbone: Backbone, parent: int) -> None:
    """Initialize a worker: one thread, interrupts left to the parent, exit when the parent ends."""
    global _inherited
    killed_with_parent(parent)
    _inherited = backbone
    torch.set_num_threads(1)
    leave_interrupts_to_parent()
    end_with_parent()
    gc.freeze()  # garbage collection of inherited objects would copy their pages


def _call(function: Callable[..., Task], task: Task) -> Task:
    return _arrays(function(_inherited, *_tensors(task)))


def _arrays(task: Task) -> Task:
    """Replace tensors by arrays: arrays are pickled by value, tensors need shared-memory files."""
    return tuple(value.numpy() if isinstance(value, torch.Tensor) else value for value in task)


def _tensors(task: Task) -> Task:
    return tuple(torch.from_numpy(value) if isinstance(value, np.ndarray) else value for value in task)
