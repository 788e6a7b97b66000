"""The sequential reference: the obvious loop, one client at a time. The oracle of `solver.py`.

No stacking, no packing, no shared prefix, no micro-batches: plain concatenation, the model's own
attention, torch.optim. Read this to know what the solver computes.
"""

from collections.abc import Sequence

import torch

from fedprofit.backbone.forward import Row, plain_losses
from fedprofit.backbone.load import Backbone
from fedprofit.core.types import ClientWork, Params
from fedprofit.local.objective import Term
from fedprofit.local.optimizer import ClientOptimizerSettings
from fedprofit.tuner.base import Tuner
from fedprofit.tuner.prompt import SOFT_PROMPT


def solve_one(
    backbone: Backbone,
    params: Params,
    work: ClientWork,
    optimizer: ClientOptimizerSettings,
    terms: Sequence[Term] = (),
    client: int = 0,
    tuner: Tuner = SOFT_PROMPT,
) -> tuple[Params, list[float]]:
    """Train one client from `params` (unstacked); return its parameters and its loss at each step.

    `client` is its position among the stacked parameters that the terms know.
    """
    own = {key: tensor.detach().clone().requires_grad_() for key, tensor in params.items()}
    rule = optimizer.in_torch(list(own.values()))
    assert rule is not None
    losses = []
    for batch in work.batches:
        rows = [Row(0, example) for example in batch]
        prompts = tuner.apply_one(own).unsqueeze(0)
        loss = plain_losses(backbone, prompts, rows).sum() / sum(len(e.target) for e in batch)
        objective = loss
        for term in terms:
            objective = objective + term.value(own, client)
        rule.zero_grad()
        torch.autograd.backward(objective)
        rule.step()
        losses.append(float(loss.detach()))
    return {key: tensor.detach() for key, tensor in own.items()}, losses


def solve_sequentially(
    backbone: Backbone,
    params: Params,
    work: Sequence[ClientWork],
    optimizer: ClientOptimizerSettings,
    terms: Sequence[Term] = (),
    tuner: Tuner = SOFT_PROMPT,
) -> tuple[Params, list[list[float]]]:
    """Train the clients of stacked `params` one after the other; return what the solver returns."""
    results = [
        solve_one(
            backbone, {key: tensor[k] for key, tensor in params.items()}, client, optimizer, terms, k, tuner
        )
        for k, client in enumerate(work)
    ]
    stacked = {key: torch.stack([result[key] for result, _ in results]) for key in params}
    return stacked, [losses for _, losses in results]
