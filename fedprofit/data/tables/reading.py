"""Findings while a source is read: all unusable rows, and how the file was read."""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedprofit.core.errors import UserError

SHOWN = 20  # rows, names or reasons in one message
CUT = 80  # characters of a value
SKIP = "Correct the file, or leave such rows out with data.bad_rows: skip."

Remark = tuple[str, str]  # subject, text


def shown(value: Any) -> str:
    """Format a value on one line, in ASCII unless it is plain text, truncated to 80 characters.

    >>> shown("a\\tb"), shown(None), shown(float("nan"))
    ("'a\\\\tb'", 'null', 'NaN')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "null" if value is None else "NaN"
    text = repr(value[: 2 * CUT] if isinstance(value, str | bytes | list) else value)
    return text if len(text) <= CUT else text[: CUT - 1] + "…"


def listed(words: Iterable[str], count: int | None = None) -> str:
    """Join the first 20 of some words; `count` is their number if not all are given.

    >>> listed(["a", "b"], 5)
    'a, b and 3 more'
    """
    words = list(words)
    more = (len(words) if count is None else count) - len(words[:SHOWN])
    return ", ".join(words[:SHOWN]) + (f" and {more} more" if more else "")


@dataclass(frozen=True)
class Finding:
    """An error that rows of a table have in common."""

    column: str  # the user's name of it
    reason: str
    rows: NDArray[np.int64]  # positions, ascending
    value: Callable[[int], Any]  # the cell at a position


@dataclass(frozen=True)
class Numbering:
    """Numbering of a table's rows for the user; from one without `numbers`."""

    unit: str = "data row"  # or "line"
    numbers: Callable[[], NDArray[np.int64] | None] = lambda: None

    def of(self, rows: NDArray[np.int64]) -> tuple[str, list[int]]:
        """Return the unit and the numbers of rows at these positions."""
        numbers = self.numbers()
        return ("data row", (rows + 1).tolist()) if numbers is None else (self.unit, numbers[rows].tolist())


@dataclass
class Reading:
    """Collects the errors in the rows of a source. `settle` refuses bad rows, or they are skipped."""

    skip: bool = False  # skip bad rows instead of refusing all
    rows: int = 0  # rows read, bad ones included
    bad: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    owners: Counter[str] = field(default_factory=Counter)  # clients, or tasks, of the bad rows
    remarks: list[Remark] = field(default_factory=list)  # how the file was read
    hints: dict[str, None] = field(default_factory=dict)  # additional remedies
    refusals: list[str] = field(default_factory=list)  # errors that concern the table, not single rows
    dropped: str = ""  # tasks that a source's own limits excluded
    _first: list[tuple[int, int, str]] = field(default_factory=list)  # place, row, text
    _places: list[str] = field(default_factory=list)
    _owner: str = "client"

    def lost(self, place: str, unit: str, number: int, reason: str, value: Any) -> None:
        """Record a row that could not be read."""
        self.rows, self.bad = self.rows + 1, self.bad + 1
        self.reasons[reason.partition(":")[0]] += 1
        self.owners["unknown"] += 1
        if self.reasons.total() <= SHOWN:
            self._tell(place, number, f"{unit} {number}: {reason}" + (f" ({shown(value)})" if value else ""))

    def sift(
        self, pool: pa.Table, findings: list[Finding], place: str, numbering: Numbering | None = None
    ) -> pa.Table:
        """Record the findings in a table of POOL_SCHEMA; return its other rows."""
        self.rows += pool.num_rows
        bad = np.zeros(pool.num_rows, bool)
        for found in findings:
            bad[found.rows] = True
            self.reasons[found.reason] += len(found.rows)
        if not bad.any():
            return pool
        self.bad += int(bad.sum())
        self._owner = owner = "client" if pool["client"].null_count < pool.num_rows else "task"
        for entry in pool[owner].filter(pa.array(bad)).value_counts().to_pylist():
            self.owners["unknown" if entry["values"] is None else shown(entry["values"])] += entry["counts"]
        for found in findings:
            rows = found.rows[:SHOWN]
            unit, numbers = (numbering or Numbering()).of(rows)
            for row, number in zip(rows.tolist(), numbers, strict=True):
                whose = pool[owner][row].as_py()
                whose = f", {owner} {shown(whose)}" if whose and not whose.isspace() else ""
                value = shown(found.value(row))
                text = f"{unit} {number}, {found.column}: {found.reason} ({value}){whose}"
                self._tell(place, number, text)
        return pool.filter(pa.array(~bad))

    def _counts(self) -> str:
        return listed(f"{count} × {reason}" for reason, count in self.reasons.most_common())

    def _tell(self, place: str, number: int, text: str) -> None:
        if place not in self._places:
            self._places.append(place)
        self._first.append((self._places.index(place), number, text))

    def settle(self, source: str) -> None:
        """Raise UserError if bad rows are not skipped, or if all rows are bad."""
        refused = self.bad and (not self.skip or self.bad == self.rows)
        if refused or self.refusals:
            raise UserError("\n".join([self._message(source)] * bool(refused) + self.refusals))
        if self.bad:
            whose = listed(f"{name} {count}" for name, count in self.owners.most_common())
            text = f"{self.bad} of {self.rows} (data.bad_rows: skip): {self._counts()}"
            self.remarks.insert(0, ("rows left out", f"{text}; by {self._owner}: {whose}"))

    def _message(self, source: str) -> str:
        """Name the first 20 rows, then the number of rows of each kind."""
        first = sorted(self._first)[:SHOWN]
        lines = [
            text if self._places[place] == source else f"{self._places[place]}, {text}"
            for place, _, text in first
        ]
        remedy = " ".join([SKIP if self.bad < self.rows else "Correct the file.", *self.hints])
        total = self.reasons.total()
        if total == 1:
            return f"{source}: {lines[0]}. {remedy}"
        more = f"\n  … {total - len(lines)} more" if total > len(lines) else ""
        head = f"{source}: {self.bad} of {self.rows} rows cannot be used"
        return f"{head}\n  " + "\n  ".join(lines) + f"{more}\nIn all: {self._counts()}.\n{remedy}"
