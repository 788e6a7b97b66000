"""Local, global and unseen-task scores of clients' prompts: the one evaluator of every method."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fedprofit.backbone.engine import Engine
from fedprofit.core.types import ClientId, Example
from fedprofit.evaluate.accumulate import Accumulator
from fedprofit.evaluate.checks import checked_value, guarded
from fedprofit.evaluate.metrics.base import Metric
from fedprofit.evaluate.metrics.loss import LOSS
from fedprofit.evaluate.records import SHARED, ClientRecord, Record, Scored
from fedprofit.evaluate.results import Condition, Score
from fedprofit.evaluate.score import Job, score
from fedprofit.predict.base import Predictor

Parts = dict[tuple[str, str], Mapping[str, Accumulator]]  # accumulators by metric, by scope and task


@dataclass(frozen=True)
class Sets:
    """A group of clients and what they are scored on."""

    clients: Sequence[ClientId]
    local: Mapping[ClientId, Sequence[Example]]  # each client's own test examples
    validation: Mapping[ClientId, Sequence[Example]]  # and its own validation examples
    shared: Mapping[str, Sequence[Example]]  # "global" and "unseen"; an empty set is not scored


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
        sets: the clients and what they are scored on.
        condition: what the prompts are; it goes into every row.
        metrics: see `score`.
        max_new_tokens: of generated answers.
        notes: why a client stopped, by client.

    Returns:
        A row per client, scope and metric, and, where a shared set has several tasks, for each task's part
        of it. A shared prompt's score on a shared set is computed once and stands in every client's rows;
        its records are returned once, with client `SHARED`.
    """
    own = _own_jobs(prompts, sets, sets.local)
    owners = [job.owner for job in own]
    parts = [
        (Job(owner, examples), scope, task)
        for owner in sorted(set(owners))
        for scope, whole in sets.shared.items()
        for task, examples in _by_task(whole).items()
    ]
    jobs = [*own, *(job for job, _, _ in parts)]
    found = score(engine, prompts, jobs, metrics, max_new_tokens)
    names = list(sets.clients) if len(prompts) > 1 else [SHARED]
    shared: dict[int, Parts] = {owner: {} for owner in owners}
    records = _records(condition, sets.clients, "local", (one.records for one in found))
    for (job, scope, task), one in zip(parts, found[len(own) :], strict=True):
        shared[job.owner][scope, task] = one.values
        records += _records(condition, [names[job.owner]], scope, [one.records])
    held = [
        {("local", ""): one.values, **_with_totals(shared[job.owner], metrics)}
        for one, job in zip(found, own, strict=False)
    ]
    return Scored(_rows(sets, condition, held, metrics, notes), records)


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
    found = score(engine, prompts, _own_jobs(prompts, sets, sets.validation), [LOSS])
    held: list[Parts] = [{("validation", ""): one.values} for one in found]
    records = _records(condition, sets.clients, "validation", (one.records for one in found))
    return Scored(_rows(sets, condition, held, [LOSS], notes), records)


def _own_jobs(
    prompts: Tensor | Predictor, sets: Sets, examples: Mapping[ClientId, Sequence[Example]]
) -> list[Job]:
    """Return each client's prompt, or the one for all, on the client's own examples."""
    shared = len(prompts) == 1
    return [Job(0 if shared else place, examples[client]) for place, client in enumerate(sets.clients)]


def _records(
    condition: Condition, clients: Sequence[ClientId], scope: str, found: Iterable[Sequence[Record]]
) -> list[ClientRecord]:
    """Name client and scope of each client's records."""
    pairs = zip(clients, found, strict=False)
    return [ClientRecord(condition, client, scope, one) for client, records in pairs for one in records]


def _rows(
    sets: Sets,
    condition: Condition,
    held: Sequence[Parts],
    metrics: Sequence[Metric],
    notes: Mapping[ClientId, str] | None,
) -> list[Score]:
    """Return a row for each value of a set that is not empty, client by client."""
    rows = []
    for client, parts in zip(sets.clients, held, strict=True):
        for (scope, task), values in parts.items():
            where = f"client {client!r}, scope {scope}{task and f' {task!r}'}"
            for metric in metrics:
                value, count = checked_value(metric, values[metric.name], where)
                if count:
                    note = (notes or {}).get(client, "")
                    rows.append(Score(condition, client, scope, metric.name, value, count, note, task))
    return rows


def _by_task(examples: Sequence[Example]) -> dict[str, list[Example]]:
    parts: dict[str, list[Example]] = {}
    for example in examples:
        parts.setdefault(example.task, []).append(example)
    return parts


def _with_totals(parts: Parts, metrics: Sequence[Metric]) -> Parts:
    """Merge the tasks of each shared set; keep them apart too, as scope "task", where there are several."""
    totals: dict[tuple[str, str], dict[str, Accumulator]] = {}
    for (scope, task), values in parts.items():
        before = totals.setdefault((scope, ""), {})
        for metric in metrics:
            name, one = metric.name, values[metric.name]
            before[name] = guarded(metric, f"task {task!r}", partial(_merged, one, before.get(name)))
    several = len(parts) > len(totals)
    return {**totals, **{("task", task): values for (_, task), values in parts.items() if several}}


def _merged(one: Accumulator, before: Accumulator | None) -> Accumulator:
    return one if before is None else one.merge(before)


def mean_loss(engine: Engine, prompt: Tensor, examples: Sequence[Example]) -> float:
    """Return one prompt's `[length, width]` loss per target token on one set; NaN of an empty set."""
    (found,) = score(engine, torch.unsqueeze(prompt, 0), [Job(0, examples)], [LOSS])
    return found.values[LOSS.name].value
