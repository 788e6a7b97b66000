"""The command line. Commands import lazily, so that `--help` is fast."""

import errno
import os
import sys
from contextlib import suppress

from fedprofit.cli import compute, inputs, results  # noqa: F401  (each registers its commands)
from fedprofit.cli.app import app, console
from fedprofit.core.errors import UserError
from fedprofit.core.processes import end_quickly
from fedprofit.core.terminal import Terminal
from fedprofit.plugins import blaming_plugins

__all__ = ["app", "console", "main"]
UNWRITABLE = (errno.ENOSPC, errno.EIO, errno.EPIPE, errno.EBADF)


def main() -> None:
    """Run the command line. A UserError is printed as one paragraph; the exit status is 2."""
    # Read when torch is first imported. By default, its waiting threads spin for a long time and take cores
    # from other processes: on two cores with one other busy process, a step of 1.2 s took 62 s. A short spin
    # has no measurable cost on idle cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    end_quickly()
    try:
        with blaming_plugins():
            app()
    except UserError as error:
        _fail(error)
    except OSError as error:
        # Errors of standard output, a device or a closed pipe, have no file name.
        if error.filename is not None or error.errno not in UNWRITABLE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the buffered output fails again at exit
        _fail(UserError(f"The output cannot be written ({error.strerror}). Redirect it elsewhere."))


def _fail(error: UserError) -> None:
    from rich.text import Text

    words = Text.assemble(("error", "bold red"), f"  {error}")
    with suppress(OSError):
        Terminal(stderr=True).print(words, highlight=False, soft_wrap=False)
    sys.exit(2)
