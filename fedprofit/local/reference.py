"""The sequential reference: the obvious loop, one client at a time. The oracle of `solver.py`.

No stacking, no packing, no shared prefix, no micro-batches: plain concatenation, the model's own
attention, torch.optim. Read this to know what the solver computes.
"""

from collections.abc import Sequence

import torch

from fedprofit.backbone.forward import Row, plain_losses
from fedprofit.backbone.load import Backbone
from fedprofit.config import Optimizer
from fedprofit.tuner.prompt import KEY
from fedprofit.types import ClientWork, Params


def solve_one(
    backbone: Backbone, params: Params, work: ClientWork, settings: Optimizer, pull: float = 0.0
) -> tuple[Params, list[float]]:
    """Train one client from `params` (unstacked); return its parameters and its loss at each step."""
    start = params[KEY].detach()
    prompt = start.clone().requires_grad_()
    optimizer = torch_optimizer(prompt, settings)
    losses = []
    for batch in work.batches:
        rows = [Row(0, example) for example in batch]
        loss = plain_losses(backbone, prompt[None], rows).sum() / sum(len(e.target) for e in batch)
        objective = loss + pull / 2 * (prompt - start).square().sum()
        optimizer.zero_grad()
        torch.autograd.backward(objective)
        optimizer.step()
        losses.append(float(loss.detach()))
    return {KEY: prompt.detach()}, losses


def solve_sequentially(
    backbone: Backbone, params: Params, work: Sequence[ClientWork], settings: Optimizer, pull: float = 0.0
) -> tuple[Params, list[list[float]]]:
    """Train the clients of stacked `params` one after the other; return what the solver returns."""
    results = [
        solve_one(backbone, {KEY: params[KEY][k]}, client, settings, pull) for k, client in enumerate(work)
    ]
    return {KEY: torch.stack([result[KEY] for result, _ in results])}, [losses for _, losses in results]


def torch_optimizer(parameter: torch.Tensor, settings: Optimizer) -> torch.optim.Optimizer:
    """Make the torch.optim optimizer that a client optimizer's settings name."""
    betas = (settings.beta1, settings.beta2)
    if settings.optimizer in ("adam", "adamw"):
        kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
        return kind(
            [parameter],
            lr=settings.rate,
            betas=betas,
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
        )
    momentum = settings.momentum if settings.optimizer == "momentum" else 0.0
    return torch.optim.SGD(
        [parameter], lr=settings.rate, momentum=momentum, weight_decay=settings.weight_decay
    )
