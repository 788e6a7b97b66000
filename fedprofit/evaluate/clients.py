"""Local, global and unseen-task scores of clients' prompts: the one evaluator of every method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedprofit.backbone.engine import Engine
from fedprofit.core.types import ClientId, Example
from fedprofit.evaluate.results import Condition, Score
from fedprofit.evaluate.rules import EARLIER, Rules
from fedprofit.evaluate.score import Job, Mean, score
from fedprofit.predict.base import Predictor

Parts = dict[tuple[str, str], dict[str, Mean]]  # means by metric, by scope and task


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
    metrics: Sequence[str],
    max_new_tokens: int,
    notes: Mapping[ClientId, str] | None = None,
    rules: Rules = EARLIER,
) -> list[Score]:
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
        rules: how answers are compared with references.

    Returns:
        A row per client, scope and metric, and, where a shared set has several tasks, for each task's part
        of it. A shared prompt's score on a shared set is computed once and stands in every client's rows.
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
    found = score(engine, prompts, jobs, metrics, max_new_tokens, rules)
    shared: dict[int, Parts] = {owner: {} for owner in owners}
    for (job, scope, task), means in zip(parts, found[len(own) :], strict=True):
        shared[job.owner][scope, task] = means
    held = [
        {("local", ""): means, **_with_totals(shared[job.owner])}
        for means, job in zip(found[: len(own)], own, strict=True)
    ]
    return _rows(sets, condition, held, notes)


def check_clients(
    engine: Engine,
    prompts: Tensor | Predictor,
    sets: Sets,
    condition: Condition,
    notes: Mapping[ClientId, str] | None = None,
) -> list[Score]:
    """Score prompts for every client by loss on its own validation examples; arguments as above.

    Returns a row per client that has such examples, of scope "validation".
    """
    found = score(engine, prompts, _own_jobs(prompts, sets, sets.validation), ["loss"])
    return _rows(sets, condition, [{("validation", ""): means} for means in found], notes)


def _own_jobs(
    prompts: Tensor | Predictor, sets: Sets, examples: Mapping[ClientId, Sequence[Example]]
) -> list[Job]:
    """Return each client's prompt, or the one for all, on the client's own examples."""
    shared = len(prompts) == 1
    return [Job(0 if shared else place, examples[client]) for place, client in enumerate(sets.clients)]


def _rows(
    sets: Sets, condition: Condition, held: Sequence[Parts], notes: Mapping[ClientId, str] | None
) -> list[Score]:
    """Return a row for each mean over something, client by client."""
    return [
        Score(condition, client, scope, metric, mean.value, mean.count, (notes or {}).get(client, ""), task)
        for client, parts in zip(sets.clients, held, strict=True)
        for (scope, task), means in parts.items()
        for metric, mean in means.items()
        if mean.count
    ]


def _by_task(examples: Sequence[Example]) -> dict[str, list[Example]]:
    parts: dict[str, list[Example]] = {}
    for example in examples:
        parts.setdefault(example.task, []).append(example)
    return parts


def _with_totals(parts: Parts) -> Parts:
    """Merge the tasks of each shared set; keep them apart too, as scope "task", where there are several."""
    totals: Parts = {}
    for (scope, _), means in parts.items():
        before = totals.setdefault((scope, ""), {})
        for metric, mean in means.items():
            before[metric] = mean.merge(before[metric]) if metric in before else mean
    several = len(parts) > len(totals)
    return totals | {("task", task): means for (_, task), means in parts.items() if several}


def mean_loss(engine: Engine, prompt: Tensor, examples: Sequence[Example]) -> float:
    """Return one prompt's `[length, width]` loss per target token on one set; NaN of an empty set."""
    return score(engine, torch.unsqueeze(prompt, 0), [Job(0, examples)], ["loss"])[0]["loss"].value
