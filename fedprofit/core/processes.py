"""How a process begins and ends: quickly, and, where it is another's, with its parent."""

import atexit
import ctypes
import gc
import math
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import active_children, forkserver, get_context, parent_process, resource_tracker
from multiprocessing.context import BaseContext
from pathlib import Path
from types import FrameType

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "share period", in microseconds
SERVED = "FEDPROFIT_SERVED"  # variable of the server of fresh processes: the process that it serves
PR_SET_PDEATHSIG = 1  # of Linux' prctl
INTERRUPTED = 130  # exit status, by convention


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


def wake_on_interrupts() -> None:
    """Let Ctrl-C end what this process waits for, as Python means it to.

    polars replaces the handler by one after which the system goes on waiting.
    """
    signal.siginterrupt(signal.SIGINT, True)


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
    wake_on_interrupts()
    if sys.platform != "linux":
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["fedprofit.preload"])
    resource_tracker.ensure_running()  # it would let Ctrl-C through again
    os.environ[SERVED] = str(main_thread_of())
    try:
        with interrupts_held():
            forkserver.ensure_running()
    finally:
        del os.environ[SERVED]
    return context


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait, also for processes that are made meanwhile, until they have said how they take it."""
    was = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, was)


def leave_interrupts_to_parent() -> None:
    """Take no notice of Ctrl-C: the parent is interrupted too, and says so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def main_thread_of() -> int:
    """Return this process's id if its main thread asks, else 0: see `killed_with_parent`."""
    return os.getpid() if threading.current_thread() is threading.main_thread() else 0


def killed_with_parent(parent: int) -> None:
    """Let Linux kill this process when its parent ends, whatever it is at; with 0, no longer.

    Linux does so when the *thread* ends that made it: `parent` is the id of a process whose main thread did.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL if parent else 0)
    if parent and os.getppid() != parent:  # it ended before that
        os._exit(1)


def end_quickly() -> None:
    """Let this process end without looking once more through all that its libraries made."""
    atexit.register(gc.freeze)


def end_with_parent() -> None:
    """End this process when its parent ends, however that comes; a pool alone would wait forever."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def answer_interrupts(line: str) -> None:
    """Let Ctrl-C end this process with one line on standard error, whatever it is at.

    While something is imported it ends at once: libraries take an interruption for a part of theirs that is
    missing, or swallow it. Else it is raised as KeyboardInterrupt, for files and the terminal to be left in
    order; `end_interrupted` is to follow. A second Ctrl-C ends at once too.
    """
    told: list[str] = []

    def interrupted(number: int, frame: FrameType | None) -> None:
        if told or _is_importing(frame):
            _tell(line if not told else "")
            os._exit(INTERRUPTED)
        told.append(line)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupted)


def end_interrupted(line: str) -> None:
    """End after a KeyboardInterrupt, with one line and without waiting for what other processes are at."""
    for child in active_children():
        child.kill()
    # The server of fresh processes, with all that it made; it may still be importing for one to come.
    server: int | None = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if server is not None:
        with suppress(ProcessLookupError):
            os.kill(server, signal.SIGKILL)
    _tell(line)
    sys.exit(INTERRUPTED)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _tell(line: str) -> None:
    """Write a line to standard error without any library; a live display is cleared and its cursor shown."""
    clear = "\r\x1b[K\x1b[?25h" if os.isatty(2) else ""
    with suppress(OSError):
        os.write(2, f"{clear}{line}\n".encode() if line else clear.encode())
