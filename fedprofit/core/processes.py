"""Start and end of processes: start quickly, and end with the parent process."""

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

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "quota period", in microseconds
SERVED = "FEDPROFIT_SERVED"  # environment variable of the fork server: the process it serves
PR_SET_PDEATHSIG = 1  # option of prctl on Linux
INTERRUPTED = 130  # conventional exit status


def usable_cores() -> int:
    """Return the number of cores available to this process; a container may limit it."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    return min(len(os.sched_getaffinity(0)), _quota())


def _quota() -> int:
    """Return the container's CPU quota in cores; sys.maxsize without a quota."""
    try:
        share, period = QUOTA.read_text().split()
        return max(1, math.ceil(int(share) / int(period)))
    except (OSError, ValueError):  # "max": no quota
        return sys.maxsize


def wake_on_interrupts() -> None:
    """Let Ctrl-C interrupt blocking system calls.

    polars installs a handler after which the system restarts them.
    """
    signal.siginterrupt(signal.SIGINT, True)


class _NoPandas:
    """Import finder that hides pandas and ignores all other modules."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ImportError(name)


def arrow_without_pandas() -> None:
    """Stop Arrow from importing pandas for its first array, which takes a second.

    Arrow still imports pandas to create or read a data frame.
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
    """Return the multiprocessing context for processes that compute runs.

    A process that has computed with threads cannot be forked safely. On Linux, new processes are forked from
    a server that has imported all libraries but computed nothing. Elsewhere each process imports them.
    """
    wake_on_interrupts()
    if sys.platform != "linux":
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["fedprofit.preload"])
    resource_tracker.ensure_running()  # before the block below: starting it unblocks Ctrl-C
    os.environ[SERVED] = str(main_thread_of())
    try:
        with interrupts_held():
            forkserver.ensure_running()
    finally:
        del os.environ[SERVED]
    return context


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Block Ctrl-C here and in processes started meanwhile, until they set their own handler."""
    was = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, was)


def leave_interrupts_to_parent() -> None:
    """Ignore Ctrl-C; the parent process handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def main_thread_of() -> int:
    """Return this process's id if called from its main thread, else 0; see `killed_with_parent`."""
    return os.getpid() if threading.current_thread() is threading.main_thread() else 0


def killed_with_parent(parent: int) -> None:
    """Let Linux kill this process when its parent ends; 0 cancels this.

    Linux does so when the *thread* that created the process ends. Therefore `parent` must be the id of a
    process whose main thread created this one.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL if parent else 0)
    if parent and os.getppid() != parent:  # the parent ended before the call
        os._exit(1)


def end_quickly() -> None:
    """Skip the final garbage collection of this process."""
    atexit.register(gc.freeze)


def end_with_parent() -> None:
    """End this process when its parent ends for any reason; a pool's worker would wait forever."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def answer_interrupts(line: str) -> None:
    """Let Ctrl-C end this process with one line on standard error.

    During an import the process ends at once, since libraries swallow the interrupt or report a missing
    module. Otherwise KeyboardInterrupt is raised, so that files and the terminal are cleaned up; the caller
    then calls `end_interrupted`. A second Ctrl-C ends the process at once.
    """
    shown: list[str] = []

    def interrupted(number: int, frame: FrameType | None) -> None:
        if shown or _is_importing(frame):
            _write_line(line if not shown else "")
            os._exit(INTERRUPTED)
        shown.append(line)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupted)


def end_interrupted(line: str) -> None:
    """Exit after a KeyboardInterrupt with one line; kill child processes without waiting for them."""
    for child in active_children():
        child.kill()
    # The fork server and its processes; it may still be importing.
    server: int | None = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if server is not None:
        with suppress(ProcessLookupError):
            os.kill(server, signal.SIGKILL)
    _write_line(line)
    sys.exit(INTERRUPTED)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _write_line(line: str) -> None:
    """Write a line to standard error without any library; clear a live display and show the cursor."""
    clear = "\r\x1b[K\x1b[?25h" if os.isatty(2) else ""
    with suppress(OSError):
        os.write(2, f"{clear}{line}\n".encode() if line else clear.encode())
