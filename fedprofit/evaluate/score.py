"""Score many prompts on many sets of examples at once, every method by this same code."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from fedprofit.backbone.engine import Engine
from fedprofit.backbone.forward import Row
from fedprofit.core.types import Example
from fedprofit.evaluate.rules import EARLIER, Rules
from fedprofit.evaluate.text import exact_match, rouge_l
from fedprofit.predict.base import Predictor, predictor_of

# By answer, references, and the variant that the rules say.
TEXT_METRICS: dict[str, Callable[[str, Sequence[str], str], float]] = {
    "rouge_l": rouge_l,
    "exact_match": exact_match,
}


@dataclass(frozen=True)
class Mean:
    """A mean that can be merged with others of the same kind.

    >>> Mean(1.0, 1).merge(Mean(5.0, 3)).value
    1.5
    """

    total: float
    count: int

    @property
    def value(self) -> float:
        """The mean; NaN of nothing."""
        return self.total / self.count if self.count else float("nan")

    def merge(self, other: "Mean") -> "Mean":
        """Return the mean over both."""
        return Mean(self.total + other.total, self.count + other.count)


@dataclass(frozen=True)
class Job:
    """Score the prompt of index `owner` on these examples."""

    owner: int
    examples: Sequence[Example]


def score(
    engine: Engine,
    prompts: Tensor | Predictor,
    jobs: Sequence[Job],
    metrics: Sequence[str],
    max_new_tokens: int = 128,
    rules: Rules = EARLIER,
) -> list[dict[str, Mean]]:
    """Score prompts on sets of examples; ValueError for a metric that is none of those below.

    Args:
        engine: the frozen backbone.
        prompts: a predictor, or prompts `[prompts, length, width]`.
        jobs: which prompt on which examples.
        metrics: "loss" (nats per target token, over all tokens of a set), "rouge_l", "exact_match"
            (0 to 100, mean over instances). Without the latter two nothing is generated.
        max_new_tokens: of generated answers.
        rules: how answers are compared with references.

    Returns:
        For each job, each metric's mean.
    """
    unknown = sorted({*metrics} - {"loss", *TEXT_METRICS})
    if unknown:
        raise ValueError(f"metric {unknown[0]!r} is not known")
    rows = [Row(job.owner, example) for job in jobs for example in job.examples]
    job_of = [number for number, job in enumerate(jobs) for _ in job.examples]
    results: list[dict[str, Mean]] = [{metric: Mean(0.0, 0) for metric in metrics} for _ in jobs]

    def add(job: int, metric: str, total: float, count: int) -> None:
        results[job][metric] = results[job][metric].merge(Mean(total, count))

    wanted = [metric for metric in metrics if metric in TEXT_METRICS]
    if wanted:
        losses, answers = predictor_of(engine, prompts).answer(rows, max_new_tokens)
        decode = engine.backbone.tokenizer.decode
        texts = [str(decode(answer, skip_special_tokens=True)).strip() for answer in answers]
    else:
        losses, texts = predictor_of(engine, prompts).score(rows), [""] * len(rows)
    for job, row, loss, text in zip(job_of, rows, losses.tolist(), texts, strict=True):
        if "loss" in metrics:
            add(job, "loss", loss, len(row.example.target))
        for metric in wanted:
            add(job, metric, TEXT_METRICS[metric](text, row.example.references, rules.variant(metric)), 1)
    return results
