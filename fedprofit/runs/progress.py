"""Telling the user how far a run or a study is: live on a terminal, plain lines elsewhere, a log file."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from fedprofit.core.errors import printable
from fedprofit.core.files import naming_place
from fedprofit.core.terminal import Terminal

EARLY = 0.03  # of the work: until then nothing is said of the time left


class Reporter(Protocol):
    """What the loop tells; it knows nothing of terminals."""

    def begin(self, stage: str) -> None:
        """Say that a stage begins."""

    def advance(self, work: float, message: str = "") -> None:
        """Say that some of the planned work is done, and the latest figures."""

    def skip(self, work: float) -> None:
        """Say that some of the planned work was done before."""

    def log(self, message: str) -> None:
        """Say something worth keeping."""

    def warn(self, message: str) -> None:
        """Say something worth keeping that the user should see at once."""


def duration(seconds: float) -> str:
    """Write a time span for people.

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
    """Report what the package itself logs: files that are damaged and made again, for example."""

    class Forward(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            report.warn(record.getMessage())

    logger, handler = logging.getLogger("fedprofit"), Forward(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class Quiet:
    """Writes the log file and nothing else; the base of the others."""

    def __init__(self, log: Path | None = None, total: float = 1.0) -> None:
        """Log to a file, if given; `total` is the planned work, in any unit."""
        self._file, self._total = log, total
        self._done, self._skipped, self._began, self._stage = 0.0, 0.0, time.monotonic(), ""
        self._early: list[str] = []  # warnings from before there was a log file

    def plan(self, log: Path | None, total: float) -> None:
        """Set the log file, if any, and the planned work, and start the clock."""
        self._file, self._total, self._began = log, total, time.monotonic()
        self._done = self._skipped = 0.0
        while log is not None and self._early:
            self._write(self._early.pop(0))

    def warn(self, message: str) -> None:
        """Say something that the user should know, and write it to the log file once there is one."""
        self.say(message)
        if self._file is None:
            self._early.append(message)
        self._write(message)

    def expect(self, rest: float) -> None:
        """Correct how much of the planned work is left."""
        self._total = self._done + rest

    def begin(self, stage: str) -> None:
        """Log the stage."""
        self._stage = stage
        self.log(f"{stage} …")

    def advance(self, work: float, message: str = "") -> None:
        """Count the work and log the figures."""
        self._done += work
        if message:
            self._write(f"{self._stage}: {message}")

    def skip(self, work: float) -> None:
        """Count work that took no time now."""
        self._skipped += work
        self.advance(work)

    def log(self, message: str) -> None:
        """Write to the log file."""
        self._write(message)

    def say(self, message: str) -> None:
        """Say nothing."""

    def left(self) -> str:
        """Say how much time is left, from the work done so far; "" while it is too early to tell."""
        elapsed = time.monotonic() - self._began
        # The first of the work also pays for what happens once, and would promise too long a wait.
        fresh = self._done - self._skipped
        if elapsed < 5 or fresh <= EARLY * (self._total - self._skipped):
            return ""
        return f"{duration(elapsed * max(self._total - self._done, 0) / fresh)} left"

    def _write(self, message: str) -> None:
        if self._file is not None:
            line = printable(message).replace("\n", "\\n")  # an entry is a line
            with naming_place(self._file), open(self._file, "a", encoding="utf-8") as handle:
                handle.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")


class Plain(Quiet):
    """A line for each stage on standard error, for logs and pipes."""

    def begin(self, stage: str) -> None:
        """Print the stage and the time left."""
        super().begin(stage)
        left = self.left()
        self.say(f"{stage}" + (f"  ({left})" if left else ""))

    def say(self, message: str) -> None:
        """Print it; a run goes on where nobody can hear of it."""
        try:
            print(printable(message), file=sys.stderr, flush=True)
        except OSError:  # what it holds back would fail once more at the end
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115


class Live(Quiet):
    """A live bar on the terminal: stage, figures, time left."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        """Draw on this bar."""
        super().__init__()
        self._progress, self._task = progress, task

    def begin(self, stage: str) -> None:
        """Show the stage."""
        super().begin(stage)
        self._progress.update(self._task, description=printable(stage), message="")

    def advance(self, work: float, message: str = "") -> None:
        """Move the bar and show the figures."""
        super().advance(work, message)
        share = min(self._done / self._total, 1.0) if self._total else 1.0
        self._progress.update(self._task, completed=share, message=printable(message), left=self.left())

    def log(self, message: str) -> None:
        """Log only: the bar shows the rest."""
        self._write(message)

    def say(self, message: str) -> None:
        """Print it above the bar."""
        self._progress.console.print(message, highlight=False, markup=False)


@contextmanager
def reporter(quiet: bool = False) -> Iterator[Quiet]:
    """Yield the reporter that suits where the output goes."""
    console = Terminal(stderr=True)
    if quiet:
        yield Quiet()
    elif not console.is_terminal:
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
