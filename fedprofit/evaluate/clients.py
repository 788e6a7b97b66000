"""Local, global, others and unseen scores of clients' prompts, for all methods.

Scores are means over the examples of a task, then over tasks, unless a metric says otherwise
(`Metric.average`). A client's others score is on the rows of the global set that are foreign to it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import nan

import torch
from torch import Tensor

from fedprofit.backbone.engine import Engine
from fedprofit.core.types import ClientId, Example
from fedprofit.evaluate.accumulate import Accumulator
from fedprofit.evaluate.checks import checked_value, guarded
from fedprofit.evaluate.metrics.base import Answer, Metric
from fedprofit.evaluate.metrics.loss import LOSS
from fedprofit.evaluate.records import SHARED, ClientRecord, Scored
from fedprofit.evaluate.results import GLOBAL, LOCAL, OTHERS, TASK, VALIDATION, Condition, Score
from fedprofit.evaluate.score import Job, JobScores, judge, score
from fedprofit.predict.base import Predictor

ByTask = dict[str, JobScores]


@dataclass(frozen=True)
class Sets:
    """A group of clients and the sets that they are scored on.

    Attributes:
        clients: their names.
        local: each client's own test examples.
        validation: each client's own validation examples.
        shared: "global" and "unseen"; an empty set is not scored.
        trained: the tasks that each client trains on. A client's scope "others" is the rows of the global set
            that are of other tasks and not its own.
    """

    clients: Sequence[ClientId]
    local: Mapping[ClientId, Sequence[Example]]
    validation: Mapping[ClientId, Sequence[Example]]
    shared: Mapping[str, Sequence[Example]]
    trained: Mapping[ClientId, Collection[str]]


def score_clients(
    engine: Engine,
    prompts: Tensor | Predictor,
    sets: Sets,
    condition: Condition,
    metrics: Sequence[Metric],
    max_new_tokens: int,
    notes: Mapping[ClientId, str] | None = None,
) -> Scored:
    """Score prompts for every client on its own examples and on the shared sets.

    Args:
        engine: the frozen backbone.
        prompts: a predictor, or prompts: one a client, `[clients, length, width]`, or one for all,
            `[1, length, width]`.
        sets: the clients and their sets.
        condition: the condition of the prompts, for every row.
        metrics: see `score`.
        max_new_tokens: of generated answers.
        notes: why a client stopped, by client.

    Returns:
        A row per client, scope and metric: local, global, others (if some rows are foreign to the client)
        and unseen; and a row for each task's part of a scope. The records of a shared prompt on a shared set
        are returned once, with client `SHARED`.
    """
    own, shared = _parts(sets, len(prompts))
    found = score(engine, prompts, [part.job for part in (*own, *shared)], metrics, max_new_tokens)
    return _gathered(sets, condition, metrics, own, shared, found, notes)


def score_texts(
    answer_of: Callable[[ClientId, bool, Example], str | None],
    sets: Sets,
    condition: Condition,
    metrics: Sequence[Metric],
) -> Scored:
    """Score texts for every client, by the metrics that need text.

    Args:
        answer_of: function from a client, whether the example is its own, and the example to the answer; None
            omits the example.
        sets: the clients and their sets.
        condition: the condition of the texts, for every row.
        metrics: metrics that need no text are omitted: a text has no loss.

    Returns:
        As `score_clients`.
    """
    texts = [metric for metric in metrics if metric.needs_text]
    own, shared = _parts(sets, len(sets.clients))
    found = []
    for part in (*own, *shared):
        client = sets.clients[part.client]
        pairs = [(each, answer_of(client, part.scope == LOCAL, each)) for each in part.job.examples]
        found.append(judge([Answer(each, nan, text) for each, text in pairs if text is not None], texts))
    return _gathered(sets, condition, texts, own, shared, found, None)


def _gathered(
    sets: Sets,
    condition: Condition,
    metrics: Sequence[Metric],
    own: "Sequence[_Part]",
    shared: "Sequence[_Part]",
    found: Sequence[JobScores],
    notes: Mapping[ClientId, str] | None,
) -> Scored:
    """Sort the scores of all parts by client, scope and task."""
    owners = 1 + max((part.client for part in shared), default=0)
    names = list(sets.clients) if owners == len(sets.clients) > 1 else [SHARED] * owners
    held: list[dict[str, ByTask]] = [{LOCAL: {}} for _ in sets.clients]
    of_owner: list[dict[str, ByTask]] = [{scope: {} for scope in sets.shared} for _ in names]
    records = []
    for part, one in zip(own, found[: len(own)], strict=True):
        held[part.client][LOCAL][part.task] = one
        records += _records(condition, sets.clients[part.client], LOCAL, one)
    for part, one in zip(shared, found[len(own) :], strict=True):
        of_owner[part.client][part.scope][part.task] = one
        records += _records(condition, names[part.client], part.scope, one)
    for number, client in enumerate(sets.clients):
        common = of_owner[number if owners > 1 else 0]
        held[number] |= common | {OTHERS: _others(common.get(GLOBAL, {}), sets, client, metrics)}
    return Scored(_rows(sets, condition, held, metrics, notes), records)


@dataclass(frozen=True)
class _Part:
    """The examples of one task in a set, to be scored under one prompt."""

    client: int  # number of the client; for a shared set, of the prompt
    scope: str
    task: str
    job: Job


def _parts(sets: Sets, prompts: int) -> tuple[list[_Part], list[_Part]]:
    """Return the parts of the clients' own sets, and those of the shared sets, for one prompt or several."""
    own = [
        _Part(number, LOCAL, task, Job(number if prompts > 1 else 0, examples))
        for number, client in enumerate(sets.clients)
        for task, examples in _by_task(sets.local[client]).items()
    ]
    shared = [
        _Part(owner, scope, task, Job(owner, examples))
        for owner in range(prompts)
        for scope, pooled in sets.shared.items()
        for task, examples in _by_task(pooled).items()
    ]
    return own, shared


def _others(found: ByTask, sets: Sets, client: ClientId, metrics: Sequence[Metric]) -> ByTask:
    """Return the parts of the global set that are foreign to a client: other tasks, and not its own rows."""
    own = {example.row for example in sets.local[client]} - {-1}
    foreign = {}
    for task, part in found.items():
        if task in sets.trained[client]:
            continue
        answers = [answer for answer in part.answers if answer.example.row not in own]
        if answers:
            foreign[task] = part if len(answers) == len(part.answers) else judge(answers, metrics)
    return foreign


def check_clients(
    engine: Engine,
    prompts: Tensor | Predictor,
    sets: Sets,
    condition: Condition,
    notes: Mapping[ClientId, str] | None = None,
) -> Scored:
    """Score prompts for every client by loss on its own validation examples; arguments as above.

    Returns a row per client that has such examples, of scope "validation".
    """
    shared = len(prompts) == 1
    jobs = [
        Job(0 if shared else number, sets.validation[client]) for number, client in enumerate(sets.clients)
    ]
    found = score(engine, prompts, jobs, [LOSS])
    held = [{VALIDATION: {"": one}} for one in found]
    pairs = zip(sets.clients, found, strict=True)
    records = [record for client, one in pairs for record in _records(condition, client, VALIDATION, one)]
    return Scored(_rows(sets, condition, held, [LOSS], notes), records)


def _records(condition: Condition, client: ClientId, scope: str, found: JobScores) -> list[ClientRecord]:
    return [ClientRecord(condition, client, scope, one) for one in found.records]


def _rows(
    sets: Sets,
    condition: Condition,
    held: Sequence[Mapping[str, ByTask]],
    metrics: Sequence[Metric],
    notes: Mapping[ClientId, str] | None,
) -> list[Score]:
    """Return a row for each value of a non-empty set, client by client."""
    rows = []
    for client, scopes in zip(sets.clients, held, strict=True):
        note = (notes or {}).get(client, "")
        for scope, task, values in _values(scopes, metrics):
            where = f"client {client!r}, scope {scope}{task and f' {task!r}'}"
            for metric in metrics:
                value, count = checked_value(metric, values[metric.name], where)
                if count:
                    rows.append(Score(condition, client, scope, metric.name, value, count, note, task))
    return rows


def _values(
    scopes: Mapping[str, ByTask], metrics: Sequence[Metric]
) -> Iterator[tuple[str, str, Mapping[str, Accumulator]]]:
    """Yield scope, task and accumulators: of each scope that is not empty, and of its tasks."""
    for scope, parts in scopes.items():
        if not parts:
            continue
        yield scope, "", _merged(parts, metrics)
        yield from ((scope + TASK, task, one.values) for task, one in parts.items() if task)


def _merged(parts: ByTask, metrics: Sequence[Metric]) -> dict[str, Accumulator]:
    """Merge the accumulators of the tasks of a scope."""
    total: dict[str, Accumulator] = {}
    for metric in metrics:
        for task, one in parts.items():
            before, value = total.get(metric.name), one.values[metric.name]
            merge = partial(value.merge, before) if before is not None else None
            total[metric.name] = guarded(metric, f"task {task!r}", merge) if merge else value
    return total


def _by_task(examples: Sequence[Example]) -> dict[str, list[Example]]:
    parts: dict[str, list[Example]] = {}
    for example in examples:
        parts.setdefault(example.task, []).append(example)
    return parts


def mean_loss(engine: Engine, prompt: Tensor, examples: Sequence[Example]) -> float:
    """Return one prompt's `[length, width]` mean example loss, over tasks; NaN for an empty set."""
    (found,) = score(engine, torch.unsqueeze(prompt, 0), [Job(0, examples)], [LOSS])
    return found.values[LOSS.name].value
