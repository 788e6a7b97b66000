"""Local, global and unseen-task scores of clients' prompts: the one evaluator of every method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedprofit.backbone.engine import Engine
from fedprofit.evaluate.results import Condition, Score
from fedprofit.evaluate.score import Job, Mean, score
from fedprofit.types import ClientId, Example

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
    prompts: Tensor,
    sets: Sets,
    condition: Condition,
    metrics: Sequence[str],
    max_new_tokens: int,
    notes: Mapping[ClientId, str] | None = None,
) -> list[Score]:
    """Score prompts for every test client on every scope.

    Args:
        engine: the frozen backbone.
        prompts: one a client, `[clients, length, width]`, or one for all, `[1, length, width]`.
        sets: the clients and what they are scored on.
        condition: what the prompts are; it goes into every row.
        metrics: see `score`. Validation examples are scored by loss alone.
        max_new_tokens: of generated answers.
        notes: why a client stopped, by client.

    Returns:
        A row per client, scope and metric, and, where a shared set has several tasks, for each task's part
        of it. A shared prompt's score on a shared set is computed once and stands in every client's rows.
    """
    owners = [0] * len(sets.clients) if len(prompts) == 1 else list(range(len(sets.clients)))
    own = [Job(owner, sets.local[client]) for owner, client in zip(owners, sets.clients, strict=True)]
    parts = [
        (Job(owner, examples), scope, task)
        for owner in sorted(set(owners))
        for scope, whole in sets.shared.items()
        for task, examples in _by_task(whole).items()
    ]
    found = score(engine, prompts, [*own, *(job for job, _, _ in parts)], metrics, max_new_tokens)
    checks = [Job(owner, sets.validation[client]) for owner, client in zip(owners, sets.clients, strict=True)]
    checked = score(engine, prompts, checks, ["loss"])
    shared: dict[int, Parts] = {owner: {} for owner in owners}
    for (job, scope, task), means in zip(parts, found[len(own) :], strict=True):
        shared[job.owner][scope, task] = means
    scores = []
    for position, (client, owner) in enumerate(zip(sets.clients, owners, strict=True)):
        held = {("local", ""): found[position], **_with_totals(shared[owner])}
        held["validation", ""] = checked[position]
        note = (notes or {}).get(client, "")
        scores += [
            Score(condition, client, scope, metric, mean.value, mean.count, note, task)
            for (scope, task), means in held.items()
            for metric, mean in means.items()
            if mean.count
        ]
    return scores


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
