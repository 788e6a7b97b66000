"""Imports of the fork server (`processes.fresh_processes`); not for other processes.

The imports take seconds, in which the server cannot check whether its parent is alive. It also ignores
Ctrl-C, which reaches all processes of a terminal. Forked processes end when the server ends.
"""

import atexit
import os

from fedprofit.core.processes import SERVED, killed_with_parent, leave_interrupts_to_parent
from fedprofit.runs.libraries import load_libraries

if served := os.environ.pop(SERVED, ""):
    leave_interrupts_to_parent()
    killed_with_parent(int(served))
    load_libraries()
    import fedprofit.studies.pools  # noqa: F401  the entry point of forked processes

    killed_with_parent(0)
    server = os.getpid()
    # Skip the cleanup of the libraries: it takes seconds, and forked processes live until it ends.
    atexit.register(lambda: os._exit(0) if os.getpid() == server else None)
    os.register_at_fork(after_in_child=lambda: killed_with_parent(os.getppid()))
