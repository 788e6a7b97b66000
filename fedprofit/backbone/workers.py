"""Processes that compute on one frozen backbone, one core each.

Two cores that share one pass wait for each other at every small kernel, some two hundred times a layer;
two cores with a micro-batch each never do. The processes are forked, so they read the parent's
weights where they are: a worker costs its activations and no second model.
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
    """`count` processes, forked at first use; with a count of 1 all is computed in this process."""

    def __init__(self, backbone: Backbone, count: int) -> None:
        """Remember what to compute on; nothing is started yet."""
        self.backbone = backbone
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    def map(self, function: Callable[..., Task], tasks: Sequence[Task]) -> Iterator[Task]:
        """Yield `function(backbone, *task)` for each task, in order.

        Args:
            function: a module's function, so that a process can find it by name.
            tasks: tensors and plain values; what `function` returns must be such a tuple too.

        Raises:
            MemoryError: a worker was killed, which is how Linux ends those that take too much.
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
        try:  # a worker may have been killed since the last call: then nothing can be submitted
            with interrupts_held():  # the first tasks make the processes
                running += [self._pool.submit(_call, function, _arrays(task)) for task in tasks]
            yield from (_tensors(future.result()) for future in running)
        except BrokenProcessPool as error:
            self._pool = None
            raise MemoryError("a worker process was killed") from error
        finally:
            for future in running:
                future.cancel()

    def processes(self) -> list[int]:
        """Return the process ids of the workers that run."""
        return [] if self._pool is None else list(self._pool._processes)


def worker_count(setting: int | str, backbone: Backbone, token_budget: int) -> int:
    """Return how many workers a setting means: "auto" is one a core, if each has tokens enough.

    On a GPU, and where processes cannot be forked safely, there is one.
    """
    if backbone.device.type != "cpu" or sys.platform != "linux":
        return 1
    if isinstance(setting, int):
        return setting
    return max(1, min(torch.get_num_threads(), token_budget // PASS_TOKENS))


@lru_cache(maxsize=2)
def shared_workers(backbone: Backbone, count: int) -> Workers:
    """Return the workers of a backbone: the same for all engines of a process."""
    return Workers(backbone, count)


def peak_private_bytes(process: int) -> int:
    """Return the most memory that a worker held of its own, not shared with the parent it was forked from.

    Linux keeps the highest of all that a process held. What a worker gave back since was its own but for
    what it let go of the parent's, so that it is at most this.
    """
    own = sum(size for name, size in _sizes(process, "smaps_rollup") if name.startswith("Private_"))
    ever = dict(_sizes(process, "status"))
    return own + max(0, ever["VmHWM"] - ever["VmRSS"])


def _sizes(process: int, file: str) -> Iterator[tuple[str, int]]:
    """Yield names and bytes of the lines like `VmRSS: 123 kB` of a file that Linux keeps of a process."""
    for line in Path(f"/proc/{process}/{file}").read_text().splitlines():
        if line.endswith(" kB"):
            name, _, size = line.partition(":")
            yield name, int(size.removesuffix("kB")) * 1024


def _begin(backbone: Backbone, parent: int) -> None:
    """Prepare a forked process: one thread, no interruption of its own, no life without its parent."""
    global _inherited
    killed_with_parent(parent)
    _inherited = backbone
    torch.set_num_threads(1)
    leave_interrupts_to_parent()
    end_with_parent()
    gc.freeze()  # what was inherited lives on: looking through it would copy its pages


def _call(function: Callable[..., Task], task: Task) -> Task:
    return _arrays(function(_inherited, *_tensors(task)))


def _arrays(task: Task) -> Task:
    """Replace tensors by arrays, which travel by value; tensors would take shared-memory files."""
    return tuple(value.numpy() if isinstance(value, torch.Tensor) else value for value in task)


def _tensors(task: Task) -> Task:
    return tuple(torch.from_numpy(value) if isinstance(value, np.ndarray) else value for value in task)
