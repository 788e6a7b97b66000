"""Progress of runs and studies: a live bar on a terminal, plain lines elsewhere, and a log file."""

import importlib.util
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from fedprofit.core.errors import UserError, printable
from fedprofit.core.files import path_in_errors
from fedprofit.core.terminal import Terminal

EARLY = 0.03  # share of the planned cost before which no remaining time is shown


class Reporter(Protocol):
    """Receiver of progress messages, independent of the output."""

    def begin(self, stage: str) -> None:
        """Report that a stage begins."""

    def advance(self, cost: float, message: str = "") -> None:
        """Report a completed part of the planned cost, with the latest metrics."""

    def skip(self, cost: float) -> None:
        """Report a part of the planned cost that was completed earlier."""

    def log(self, message: str) -> None:
        """Write a message to the log."""

    def warn(self, message: str) -> None:
        """Write a message to the log and show it to the user."""


def duration(seconds: float) -> str:
    """Format a duration for display.

    >>> duration(42), duration(75), duration(7300)
    ('42 s', '1 min 15 s', '2 h 01 min')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def logged(report: "Quiet") -> Iterator[None]:
    """Forward warnings of the package's logger to the reporter, and the traceback of an unexpected error."""

    class Forward(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            report.warn(record.getMessage())

    logger, handler = logging.getLogger("fedprofit"), Forward(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    except Exception as error:
        if not isinstance(error, UserError):
            for line in traceback.format_exception(error):
                report.log(line.rstrip())
        raise
    finally:
        logger.removeHandler(handler)


class Quiet:
    """Reporter that only writes the log file; the base class of the others."""

    def __init__(self, log: Path | None = None, total: float = 1.0) -> None:
        """Set the log file, if any, and the planned cost `total`, in any unit."""
        self._file, self._total = log, total
        self._done, self._skipped, self._began, self._stage = 0.0, 0.0, time.monotonic(), ""
        self._early: list[str] = []  # warnings before the log file is set

    def plan(self, log: Path | None, total: float) -> None:
        """Set the log file, if any, and the planned cost; start the clock."""
        self._file, self._total, self._began = log, total, time.monotonic()
        self._done = self._skipped = 0.0
        while log is not None and self._early:
            self._write(self._early.pop(0))

    def warn(self, message: str) -> None:
        """Show a warning, and write it to the log file, at the latest when that is set."""
        self.say(message)
        if self._file is None:
            self._early.append(message)
        self._write(message)

    def expect(self, rest: float) -> None:
        """Correct the remaining part of the planned cost."""
        self._total = self._done + rest

    def begin(self, stage: str) -> None:
        """Log the stage."""
        self._stage = stage
        self.log(f"{stage} …")

    def advance(self, cost: float, message: str = "") -> None:
        """Add to the completed cost and log the message."""
        self._done += cost
        if message:
            self._write(f"{self._stage}: {message}")

    def skip(self, cost: float) -> None:
        """Add to the completed cost, but not to the measured speed."""
        self._skipped += cost
        self.advance(cost)

    def log(self, message: str) -> None:
        """Write to the log file."""
        self._write(message)

    def say(self, message: str) -> None:
        """Ignore the message."""

    def left(self) -> str:
        """Return the estimated remaining time; "" if it is too early for an estimate."""
        elapsed = time.monotonic() - self._began
        # The first part includes one-time costs, which would make the estimate too long.
        fresh = self._done - self._skipped
        if elapsed < 5 or fresh <= EARLY * (self._total - self._skipped):
            return ""
        return f"{duration(elapsed * max(self._total - self._done, 0) / fresh)} left"

    def _write(self, message: str) -> None:
        if self._file is not None:
            line = printable(message).replace("\n", "\\n")  # one line per entry
            with path_in_errors(self._file), open(self._file, "a", encoding="utf-8") as handle:
                handle.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")


class Plain(Quiet):
    """Reporter that prints one line per stage to standard error."""

    def begin(self, stage: str) -> None:
        """Print the stage and the remaining time."""
        super().begin(stage)
        left = self.left()
        self.say(f"{stage}" + (f"  ({left})" if left else ""))

    def say(self, message: str) -> None:
        """Print a message; ignore a closed output so that the run continues."""
        try:
            print(printable(message), file=sys.stderr, flush=True)
        except OSError:  # otherwise its buffer fails again at exit
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115


class Live(Quiet):
    """Reporter with a live progress bar: stage, metrics, remaining time."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        """Use a task of a rich progress display."""
        super().__init__()
        self._progress, self._task = progress, task

    def begin(self, stage: str) -> None:
        """Show the stage."""
        super().begin(stage)
        self._progress.update(self._task, description=printable(stage), message="")

    def advance(self, cost: float, message: str = "") -> None:
        """Advance the bar and show the message."""
        super().advance(cost, message)
        share = min(self._done / self._total, 1.0) if self._total else 1.0
        self._progress.update(self._task, completed=share, message=printable(message), left=self.left())

    def log(self, message: str) -> None:
        """Write to the log file only; the bar shows the stage."""
        self._write(message)

    def say(self, message: str) -> None:
        """Print a message above the bar."""
        self._progress.console.print(message, highlight=False, markup=False)


@contextmanager
def reporter(quiet: bool = False) -> Iterator[Quiet]:
    """Yield the reporter for the type of output."""
    console = Terminal(stderr=True)
    if quiet:
        yield Quiet()
    elif not (console.is_terminal or (console.is_jupyter and importlib.util.find_spec("ipywidgets"))):
        yield Plain()
    else:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[message]}", markup=False),
            TextColumn("[dim]{task.fields[left]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("starting", total=1.0, message="", left="")
            yield Live(progress, task)
