"""Accumulators: from the scores of examples to the value of a set, merged in any grouping."""

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self


class Accumulator(Protocol):
    """A value of a set of examples that can be merged with those of other sets."""

    @property
    def value(self) -> float:
        """The value; NaN for an empty set."""
        ...

    @property
    def count(self) -> int:
        """The number of examples or target tokens of the value."""
        ...

    def merge(self, other: Any) -> Self:
        """Return the accumulator of both sets."""
        ...


@dataclass(frozen=True)
class Mean:
    """A weighted mean.

    >>> Mean(1.0, 1).merge(Mean(5.0, 3)).value
    1.5
    """

    total: float = 0.0
    count: int = 0

    @property
    def value(self) -> float:
        """The mean; NaN for an empty set."""
        return self.total / self.count if self.count else float("nan")

    def merge(self, other: "Mean") -> "Mean":
        """Return the mean over both sets."""
        return Mean(self.total + other.total, self.count + other.count)


@dataclass(frozen=True)
class Counts:
    """Counts by key, for values that are not means over examples. Subclasses define `value`.

    >>> Counts({("yes", "no"): 2}).merge(Counts({("yes", "no"): 1, ("no", "no"): 4})).counts
    {('yes', 'no'): 3, ('no', 'no'): 4}
    """

    counts: Mapping[Hashable, int]

    @property
    def count(self) -> int:
        """The sum of all counts."""
        return sum(self.counts.values())

    @property
    def value(self) -> float:
        """The value of the counts; NaN for an empty set."""
        raise NotImplementedError

    def merge(self, other: "Counts") -> Self:
        """Add up both sets of counts."""
        return replace(self, counts=dict(Counter(self.counts) + Counter(other.counts)))


@dataclass(frozen=True)
class OverTasks:
    """The macro average: the mean over tasks of each task's value.

    >>> OverTasks({"a": Mean(9.0, 9)}).merge(OverTasks({"b": Mean(0.0, 1)})).value
    0.5
    """

    tasks: Mapping[str, Accumulator]

    @property
    def value(self) -> float:
        """The mean over tasks; NaN for an empty set."""
        # Sorted by name: the order of merging must not change the sum.
        values = [self.tasks[name].value for name in sorted(self.tasks) if self.tasks[name].count]
        return sum(values) / len(values) if values else float("nan")

    @property
    def count(self) -> int:
        """The counts of all tasks."""
        return sum(one.count for one in self.tasks.values())

    def merge(self, other: "OverTasks") -> "OverTasks":
        """Merge task by task."""
        merged = dict(self.tasks)
        for name, one in other.tasks.items():
            merged[name] = merged[name].merge(one) if name in merged else one
        return OverTasks(merged)
