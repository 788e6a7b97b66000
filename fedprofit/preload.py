"""What the server of fresh processes imports at its start (`processes.fresh_processes`); others gain nothing.

Importing takes seconds, in which the server does not look whether its parent is there. Nor is it to answer
Ctrl-C, which reaches all processes of a terminal. Its copies end with it, from their first moment on.
"""

import atexit
import os

from fedprofit.core.processes import SERVED, killed_with_parent, leave_interrupts_to_parent
from fedprofit.runs.libraries import load_libraries

if served := os.environ.pop(SERVED, ""):
    leave_interrupts_to_parent()
    killed_with_parent(int(served))
    load_libraries()
    import fedprofit.studies.pools  # noqa: F401  what a copy of it is asked to do first

    killed_with_parent(0)
    server = os.getpid()
    # To take apart what the libraries made takes it seconds; its copies live as long.
    atexit.register(lambda: os._exit(0) if os.getpid() == server else None)
    os.register_at_fork(after_in_child=lambda: killed_with_parent(os.getppid()))
