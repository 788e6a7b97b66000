"""Scoring of many prompts on many sets of examples at once; used for all methods."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from torch import Tensor

from fedprofit.backbone.engine import Engine
from fedprofit.backbone.forward import Row
from fedprofit.core.types import Example
from fedprofit.evaluate.accumulate import Accumulator
from fedprofit.evaluate.checks import checked_score, guarded, merged
from fedprofit.evaluate.metrics.base import Answer, Metric
from fedprofit.evaluate.records import Record
from fedprofit.predict.base import Predictor, predictor_of


@dataclass(frozen=True)
class Job:
    """A prompt, by index `owner`, and the examples to score it on."""

    owner: int
    examples: Sequence[Example]


@dataclass(frozen=True)
class JobScores:
    """The scores of a job.

    Attributes:
        answers: the scored answers, in the order of the job's examples.
        records: one record per answer.
        values: the accumulator of the complete set, by name of the metric.
    """

    answers: Sequence[Answer]
    records: Sequence[Record]
    values: Mapping[str, Accumulator]


def score(
    engine: Engine,
    prompts: Tensor | Predictor,
    jobs: Sequence[Job],
    metrics: Sequence[Metric],
    max_new_tokens: int = 128,
) -> list[JobScores]:
    """Score prompts on sets of examples.

    Args:
        engine: the frozen backbone.
        prompts: a predictor, or prompts `[prompts, length, width]`.
        jobs: prompts and the examples to score them on.
        metrics: nothing is generated unless one of them needs text.
        max_new_tokens: of generated answers.

    Returns:
        For each job, its records and each metric's accumulator.

    Raises:
        UserError: a metric raises, or returns something other than a number within its bounds.
    """
    rows = [Row(job.owner, example) for job in jobs for example in job.examples]
    answers = iter(_answers(engine, prompts, rows, max_new_tokens if _need_text(metrics) else 0))
    return [judge(islice(answers, len(job.examples)), metrics) for job in jobs]


def judge(answers: Iterable[Answer], metrics: Sequence[Metric]) -> JobScores:
    """Score the answers of one set by each metric."""
    values = {metric.name: guarded(metric, "an empty set", metric.start) for metric in metrics}
    answers, records = list(answers), []
    for answer in answers:
        scores: dict[str, float] = {}
        for metric in metrics:
            one = checked_score(metric, answer)
            values[metric.name] = merged(metric, values[metric.name], answer, one)
            if one is not None:
                scores[metric.name] = one
        example = answer.example
        records.append(Record(example.row, example.task, answer.loss, answer.tokens, answer.text, scores))
    return JobScores(answers, records, values)


def _need_text(metrics: Sequence[Metric]) -> bool:
    return any(metric.needs_text for metric in metrics)


def _answers(
    engine: Engine, prompts: Tensor | Predictor, rows: Sequence[Row], max_new_tokens: int
) -> list[Answer]:
    """Read each row's loss, and generate its answer if `max_new_tokens` is not 0."""
    predictor = predictor_of(engine, prompts)
    texts: Sequence[str | None] = [None] * len(rows)
    if max_new_tokens:
        losses, answers = predictor.answer(rows, max_new_tokens)
        decode = engine.backbone.tokenizer.decode
        texts = [str(decode(answer, skip_special_tokens=True)).strip() for answer in answers]
    else:
        losses = predictor.score(rows)
    found = zip(rows, losses.tolist(), texts, strict=True)
    return [Answer(row.example, loss, text) for row, loss, text in found]
