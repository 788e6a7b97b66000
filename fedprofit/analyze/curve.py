"""A trade-off curve: the scores of every unit along the steps of one setting."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


class Weights(Protocol):
    """Weights of units, or of seeds and tasks, for each draw."""

    def mean(self, curve: "Curve") -> tuple[Floats, Floats]:
        """Return the weighted mean local and retained scores of a curve, `[draws, points]` each."""
        ...


@dataclass(frozen=True)
class ByTask:
    """The scores of a curve by task.

    Attributes:
        seed: number of each unit's seed, from 0, `[units]`.
        local: scores on each of the unit's own tasks, `[points, units, tasks]`; NaN for all others.
        kept: scores on each task of the retained scope, `[points, units, tasks]`; NaN for all others.
    """

    seed: Indices
    local: Floats
    kept: Floats


@dataclass(frozen=True)
class Sums:
    """Sums over the units of each seed, to compute means for any weights of seeds and tasks.

    Attributes:
        local: `[points, seeds, tasks]`; local_weight `[seeds, tasks]`.
        kept: `[points, seeds, own tasks, scored tasks]`; kept_weight `[seeds, own tasks, scored tasks]`.
    """

    local: Floats
    local_weight: Floats
    kept: Floats
    kept_weight: Floats


@dataclass(frozen=True)
class Curve:
    """A trade-off curve, for every unit (a test client of one seed).

    Higher is better in both scores, whatever the metric: losses are negated.

    Attributes:
        local: `[points, units]`; NaN where a unit has no such curve.
        kept: `[points, units]`, the retained score: others, or global where others is undefined.
        tasks: the scores by task; None if unknown.
        steps: local steps at each point, `[points]`; None if points are not steps.
    """

    local: Floats
    kept: Floats
    tasks: ByTask | None = None
    steps: Floats | None = None

    @cached_property
    def has(self) -> npt.NDArray[np.bool_]:
        """Which units have this curve, `[units]`."""
        has: npt.NDArray[np.bool_] = np.isfinite(np.concatenate([self.local, self.kept])).all(0)
        return has

    def mean(self, weights: Weights) -> tuple[Floats, Floats]:
        """Average over units: local and retained scores, `[draws, points]` each."""
        return weights.mean(self)

    def of(self, units: Indices) -> "Curve":
        """Return the curve of some units only."""
        tasks = self.tasks
        if tasks is not None:
            tasks = ByTask(tasks.seed[units], tasks.local[:, units], tasks.kept[:, units])
        return Curve(self.local[:, units], self.kept[:, units], tasks, self.steps)

    def where(self, units: npt.NDArray[np.bool_]) -> "Curve":
        """Return the curve with the scores of all other units set to NaN."""
        local, kept = (np.where(units, scores, np.nan) for scores in (self.local, self.kept))
        return Curve(local, kept, self.tasks, self.steps)

    def beside(self, other: "Curve") -> "Curve":
        """Return the curve of the units that have both curves, or all of it if no unit has both.

        A unit that diverged on one of two curves must count on neither. Curves of different grid cells have
        no unit in common.
        """
        both = self.has & other.has
        return self.where(both) if both.any() else self

    def from_start(self) -> "Curve":
        """Return the curve of both scores relative to its first point."""
        tasks = self.tasks
        if tasks is not None:
            tasks = ByTask(tasks.seed, tasks.local - tasks.local[:1], tasks.kept - tasks.kept[:1])
        return Curve(self.local - self.local[:1], self.kept - self.kept[:1], tasks, self.steps)

    @cached_property
    def by_seed_and_task(self) -> Sums:
        """Sums over the units of each seed that have the curve."""
        assert self.tasks is not None, "scores by task are known"
        seeds = int(self.tasks.seed.max()) + 1
        has = self.has[:, None]
        own = np.isfinite(self.tasks.local).all(0) & has
        scored = np.isfinite(self.tasks.kept).all(0) & has
        share = own / np.maximum(own.sum(1, keepdims=True), 1)  # of each own task in a client's mean
        weight = scored / np.maximum(scored.sum(1, keepdims=True), 1)
        members = np.eye(seeds)[self.tasks.seed]  # [units, seeds]
        local = np.where(own, self.tasks.local, 0.0) * share
        kept = np.where(scored, self.tasks.kept, 0.0) * weight
        return Sums(
            np.einsum("us,put->pst", members, local),
            np.einsum("us,ut->st", members, share),
            np.stack([np.einsum("us,ut,uv->stv", members, share, one, optimize=True) for one in kept]),
            np.einsum("us,ut,uv->stv", members, share, weight, optimize=True),
        )
