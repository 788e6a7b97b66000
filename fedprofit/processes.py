"""How a process begins and ends: quickly, and, where it is another's, with its parent."""

import atexit
import gc
import math
import os
import sys
from multiprocessing import get_context, parent_process
from multiprocessing.context import BaseContext
from pathlib import Path
from threading import Thread

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "share period", in microseconds


def usable_cores() -> int:
    """Return how many cores this process may use, which in a container can be fewer than there are."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    return min(len(os.sched_getaffinity(0)), _quota())


def _quota() -> int:
    """Return how many cores the container's share of processor time comes to; very many without one."""
    try:
        share, period = QUOTA.read_text().split()
        return max(1, math.ceil(int(share) / int(period)))
    except (OSError, ValueError):  # none set is "max"
        return sys.maxsize


def load_libraries() -> None:
    """Import all that a run computes with, in four fifths of the time.

    What torch and transformers make as they are imported stays for as long as the process does, and Python
    would look through it for garbage again and again.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        import fedprofit.study.run  # noqa: F401
    finally:
        if was_enabled:
            gc.enable()


class _NoPandas:
    """Finds no pandas, and all other modules no sooner than others do."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ImportError(name)


def arrow_without_pandas() -> None:
    """Keep Arrow from importing pandas, where that is installed, for its first array: it takes a second.

    Arrow looks for it again when it is asked to make or read a frame.
    """
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    sys.meta_path.insert(0, _NoPandas)
    try:
        pa.array([])
    finally:
        sys.meta_path.remove(_NoPandas)


def fresh_processes() -> BaseContext:
    """Return how processes are made that compute runs: each as if it were new, and soon.

    A process that has computed with threads cannot be copied safely. On Linux new ones are copies of a server
    that has imported all libraries, once, and computed nothing; elsewhere each imports them itself.
    """
    if sys.platform != "linux":
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["fedprofit.study.run"])
    return context


def end_quickly() -> None:
    """Let this process end without looking once more through all that its libraries made."""
    atexit.register(gc.freeze)


def end_with_parent() -> None:
    """End this process when its parent ends, however that comes; a pool alone would wait forever."""
    Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
