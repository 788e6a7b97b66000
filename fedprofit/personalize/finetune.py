"""Fine-tuning of one prompt by many clients at once, each on its own train examples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedprofit.backbone.engine import Engine
from fedprofit.config import FineTune
from fedprofit.data.batching import plan_of
from fedprofit.local.solver import solve
from fedprofit.seeding import numpy_generator
from fedprofit.types import ClientId, ClientWork, Example, LocalResult, Params


@dataclass(frozen=True)
class Personalized:
    """The clients' prompts along their steps."""

    clients: list[ClientId]
    points: dict[int, Params]  # evaluation step -> stacked parameters, in the clients' order
    result: LocalResult

    @property
    def facts(self) -> dict[str, Any]:
        """What is kept beside the prompts: clients, the steps that each took, and why any stopped."""
        return {"clients": self.clients, "steps": self.result.steps, "stopped": self.result.stopped}


def stopped_before(step: int, facts: Mapping[str, Any]) -> dict[ClientId, str]:
    """Say which clients had stopped before an evaluation step, and why; `facts` of `Personalized`.

    >>> facts = {"clients": ["ann", "bob"], "steps": [8, 3], "stopped": {"bob": "loss not finite"}}
    >>> stopped_before(3, facts), stopped_before(4, facts)
    ({}, {'bob': 'loss not finite'})
    """
    taken = dict(zip(facts["clients"], facts["steps"], strict=True))
    return {client: why for client, why in facts["stopped"].items() if taken[client] < step}


def finetune(
    engine: Engine,
    start: Params,
    clients: Sequence[ClientId],
    examples: Callable[[ClientId], Sequence[Example]],
    settings: FineTune,
    seed: int,
) -> Personalized:
    """Fine-tune `start` (unstacked) by each client on its examples.

    The batches depend on seed and client alone, so that every start and every rate sees the same ones.
    Points are the steps of `settings.evaluate_at` that some client reaches, and the last.
    """
    plan = plan_of(settings)
    work = []
    for client in clients:
        own = examples(client)
        positions = plan(len(own), numpy_generator(seed, "personalize", client))
        work.append(ClientWork(client, [[own[p] for p in batch] for batch in positions], len(own)))
    last = max((len(client.batches) for client in work), default=0)
    points = sorted({step for step in settings.evaluate_at if step < last} | {last})
    stacked = {key: tensor.expand(len(work), *tensor.shape) for key, tensor in start.items()}
    result, kept = solve(engine, stacked, work, settings.client, settings.pull, points)
    return Personalized(list(clients), kept, result)
