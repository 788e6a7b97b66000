"""Checks of the values that metrics return, since a metric may be a plug-in."""

from collections.abc import Callable, Sequence
from math import isfinite, isnan
from numbers import Real
from operator import index
from typing import Any, TypeVar

from fedprofit.config.component import where_of
from fedprofit.core.errors import UserError, cut, first_line
from fedprofit.core.types import Example
from fedprofit.evaluate.accumulate import Accumulator
from fedprofit.evaluate.metrics.base import Answer, Metric

ROUNDING = 1e-4  # tolerance of bounds: losses are rounded in float32
REMEDY = "Correct the metric, or remove it from evaluation.metrics."

Result = TypeVar("Result")


def guarded(metric: Metric, where: str, call: Callable[[], Result]) -> Result:
    """Call a function of a metric. If it raises, raise UserError with metric, file and line."""
    try:
        return call()
    except (UserError, MemoryError):
        raise
    except Exception as error:
        reason = first_line(error, with_type=True)
        raise UserError(f"{_named(metric)}: fails for {where} ({reason}). {REMEDY}") from error


def checked_score(metric: Metric, answer: Answer) -> float | None:
    """Score one example. Raise UserError unless the score is a number within the metric's bounds.

    None is allowed only for metrics with their own accumulator. A loss that is not finite may have a score
    that is not finite.
    """
    where = place_of(answer.example)
    score = guarded(metric, where, lambda: metric.score(answer))
    if score is None and type(metric).accumulate is not Metric.accumulate:
        return None
    return _checked(metric, score, f"score {cut(repr(score))} for {where}", not isfinite(answer.loss))


def checked_value(metric: Metric, accumulator: Accumulator, where: str) -> tuple[float, int]:
    """Return a set's value and count. Raise UserError unless they are numbers within the metric's bounds."""
    value, count = guarded(metric, where, lambda: _read(accumulator))
    if count < 0:
        raise UserError(f"{_named(metric)}: count {count} for {where} is below 0. {REMEDY}")
    if not count:
        return float("nan"), 0
    return _checked(metric, value, f"value {cut(repr(value))} for {where}", not metric.needs_text), count


def _read(accumulator: Accumulator) -> tuple[Any, int]:
    count = index(accumulator.count)  # TypeError unless it is an integer
    return accumulator.value if count else None, count


def rehearse(metrics: Sequence[Metric], examples: Sequence[Example]) -> None:
    """Score references as answers with each metric: one that always fails is found before training."""
    for metric in metrics:
        total = guarded(metric, "an empty set", metric.start)
        for example in examples:
            answer = Answer(example, float(len(example.target)), example.references[0])
            total = merged(metric, total, answer, checked_score(metric, answer))
        checked_value(metric, total, f"{len(examples)} examples")


def merged(metric: Metric, total: Accumulator, answer: Answer, score: float | None) -> Accumulator:
    """Return an accumulator with one more example."""
    return guarded(metric, place_of(answer.example), lambda: total.merge(metric.add(answer, score)))


def place_of(example: Example) -> str:
    """Name an example.

    >>> place_of(Example(None, None, None, "poems", (), 3))
    "example 3 of task 'poems'"
    """
    number = f"example {example.row}" if example.row >= 0 else "an example"
    return f"{number} of task {cut(repr(example.task))}"


def _checked(metric: Metric, value: Any, what: str, may_be_infinite: bool) -> float:
    """Return a value as a float. Raise UserError if the metric does not allow it."""
    low, high = metric.bounds
    if not isinstance(value, Real):
        problem = "not a number"
    elif isnan(value := float(value)):
        problem = "" if may_be_infinite else "NaN"
    elif low - ROUNDING <= value <= high + ROUNDING or (may_be_infinite and not isfinite(value)):
        problem = ""
    else:
        problem = f"out of its bounds, {low:g} to {high:g}"
    if problem:
        raise UserError(f"{_named(metric)}: {what} is {problem}. {REMEDY}")
    return float(value)


def _named(metric: Metric) -> str:
    called = "" if metric.name == metric.kind else f", called {metric.name!r}"
    return f"metric {metric.kind!r}{called} ({where_of(type(metric))})"
