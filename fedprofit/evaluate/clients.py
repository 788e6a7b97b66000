"""Local, global and unseen-task scores of clients' prompts: the one evaluator of every method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedprofit.backbone.engine import Engine
from fedprofit.evaluate.results import Condition, Score
from fedprofit.evaluate.score import Job, score
from fedprofit.types import ClientId, Example


@dataclass(frozen=True)
class Sets:
    """What the test clients are scored on."""

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
        sets: the test clients and what they are scored on.
        condition: what the prompts are; it goes into every row.
        metrics: see `score`. Validation examples are scored by loss alone.
        max_new_tokens: of generated answers.
        notes: why a client stopped, by client.

    Returns:
        A row per client, scope and metric. A shared prompt's score on a shared set is computed once
        and stands in every client's rows.
    """
    one = len(prompts) == 1
    owner = {client: 0 if one else position for position, client in enumerate(sets.clients)}
    keys = [(client, "local") for client in sets.clients]
    jobs = [Job(owner[client], sets.local[client]) for client in sets.clients]
    for scope, examples in sets.shared.items():
        if examples:
            for client in sets.clients[:1] if one else sets.clients:
                keys.append((client, scope))
                jobs.append(Job(owner[client], examples))
    found = dict(zip(keys, score(engine, prompts, jobs, metrics, max_new_tokens), strict=True))
    checks = [Job(owner[client], sets.validation[client]) for client in sets.clients]
    for client, result in zip(sets.clients, score(engine, prompts, checks, ["loss"]), strict=True):
        found[client, "validation"] = result
    first = sets.clients[0]
    scores = []
    for client in sets.clients:
        for scope in ("local", *sets.shared, "validation"):
            held = found.get((client, scope)) or (found.get((first, scope)) if one else None) or {}
            for metric, mean in held.items():
                if mean.count:
                    note = (notes or {}).get(client, "")
                    scores.append(Score(condition, client, scope, metric, mean.value, mean.count, note))
    return scores


def mean_loss(engine: Engine, prompt: Tensor, examples: Sequence[Example]) -> float:
    """Return one prompt's `[length, width]` loss per target token on one set; NaN of an empty set."""
    return score(engine, torch.unsqueeze(prompt, 0), [Job(0, examples)], ["loss"])[0]["loss"].value
