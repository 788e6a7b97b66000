"""A metric is a value: facts for reports, a function per example, and a mergeable accumulator.

A new metric is one file: a class with a `kind`, facts as class variables, and `score`.

    class Length(Metric, kind="length"):
        \"\"\"The words of an answer.\"\"\"

        title, unit, bounds = "Length", "words", (0.0, inf)

        def score(self, answer: Answer) -> float:
            return len(answer.text.split())

A metric that is not a mean over examples overrides `accumulate` and `empty` (see `accumulate.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar, Literal, Self

from fedprofit.config.base import Name
from fedprofit.config.component import Component, where_of
from fedprofit.config.trial import Named
from fedprofit.core.errors import UserError
from fedprofit.core.types import Example
from fedprofit.evaluate.accumulate import Accumulator, Mean, OverTasks
from fedprofit.evaluate.facts import DataFacts, MetricFacts, Variant


@dataclass(frozen=True)
class Answer:
    """Inputs of a metric for one example."""

    example: Example
    loss: float  # nats, summed over the target tokens
    text: str | None  # the generated answer; None if nothing was generated

    @property
    def references(self) -> Sequence[str]:
        """The example's references, at least one."""
        return self.example.references

    @property
    def tokens(self) -> int:
        """The number of target tokens that the loss is summed over."""
        return len(self.example.target)


class Metric(Named, Component, family="metric", package="fedprofit.evaluate.metrics"):
    """A score of answers or losses."""

    title: ClassVar[str] = ""
    unit: ClassVar[str] = ""
    scale: ClassVar[str] = ""  # such as "0 to 100"
    lower_is_better: ClassVar[bool] = False
    bounds: ClassVar[tuple[float, float]] = (-inf, inf)  # values outside are an error
    digits: ClassVar[int] = 1  # after the decimal point
    needs_text: ClassVar[bool] = True  # without such metrics nothing is generated
    counted: ClassVar[str] = "examples"  # what `Accumulator.count` counts
    rank: ClassVar[int] = 100  # reports show the lowest first
    stands_in: ClassVar[str] = ""  # kind of the metric that is shown instead if space is limited

    name: Name = ""
    """Name in results; by default the kind."""
    average: Literal["examples", "tasks"] = "tasks"
    """What a score averages over. tasks: the macro average, in which each task has the same weight."""

    @classmethod
    def __pydantic_init_subclass__(cls, **more: Any) -> None:
        """Reject a metric with incomplete facts; register the others."""
        if cls.kind:
            low, high = cls.bounds
            if not cls.title or not low < high:
                wrong = f"bounds {cls.bounds}" if cls.title else "no title"
                raise UserError(
                    f"{where_of(cls)}: the metric {cls.kind!r} has {wrong}. Set the class variables title "
                    "and bounds (lowest, highest); reports show and check them."
                )
        super().__pydantic_init_subclass__(**more)

    def score(self, answer: Answer) -> float | None:
        """Score one example; None if only sets have a value."""
        return None

    def accumulate(self, answer: Answer, score: float | None) -> Accumulator:
        """Return the accumulator of a set of one example; by default for the mean over examples."""
        assert score is not None
        return Mean(score, 1)

    def empty(self) -> Accumulator:
        """Return the accumulator of an empty set."""
        return Mean()

    def resolve(self, data: DataFacts) -> Self:
        """Return the metric with its `auto` settings resolved for a data set."""
        return self

    def describe(self, data: DataFacts) -> Variant:
        """Describe how a resolved metric is computed, if it has several variants."""
        return Variant()

    def facts(self, data: DataFacts | None = None) -> MetricFacts:
        """Return the facts for reports of the metric, as computed on a data set."""
        return MetricFacts(
            name=self.name,
            title=self.full_title,
            unit=self.unit,
            scale=self.scale,
            lower_is_better=self.lower_is_better,
            digits=self.digits,
            bounds=(float(self.bounds[0]), float(self.bounds[1])),
            counted=self.counted,
            stands_in=self.stands_in,
            rank=self.rank,
            variant=self.describe(data) if data else Variant(),
        )

    @property
    def full_title(self) -> str:
        """The title, and the settings that distinguish the metric from others of its kind."""
        standard = type(self).model_fields["average"].default
        unusual = f"mean over {self.average}" if self.average != standard else ""
        what = ", ".join(filter(None, (self.name if self.name != self.kind else "", unusual)))
        return f"{self.title} ({what})" if what else self.title

    def start(self) -> Accumulator:
        """Return the accumulator of an empty set, over examples or tasks."""
        return OverTasks({}) if self.average == "tasks" else self.empty()

    def add(self, answer: Answer, score: float | None) -> Accumulator:
        """Return the accumulator of a set of one example, over examples or tasks."""
        one = self.accumulate(answer, score)
        return OverTasks({answer.example.task: self.empty().merge(one)}) if self.average == "tasks" else one
