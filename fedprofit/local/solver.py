"""The local solver: K clients trained at once on one frozen backbone.

The clients' parameters are stacked, `[clients, ...]`. A client's loss touches its own slice alone, so
the gradient of the sum of all clients' losses holds each client's own gradient in its slice: one
backward pass serves all. Micro-batches only split that sum. `reference.py` says the same one client at
a time; tests hold the two equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedprofit.backbone.engine import Engine
from fedprofit.backbone.forward import Row, count_tokens
from fedprofit.core.types import Batch, ClientWork, LocalResult, Params
from fedprofit.local.optimizer import ClientOptimizerSettings
from fedprofit.local.stacked import finite_slices
from fedprofit.tuner.prompt import stacked_prompts


@dataclass(frozen=True)
class Gradients:
    """Gradients of K clients' losses on one batch each."""

    gradients: Params  # stacked
    losses: Tensor  # [clients], mean per target token; 0 for a client without a batch
    tokens: list[int]  # by client, counted as if it ran alone


def gradients(engine: Engine, params: Params, batches: Sequence[Batch]) -> Gradients:
    """Compute each client's mean loss per target token on its batch, and its gradient.

    Args:
        engine: the frozen backbone.
        params: stacked parameters, `[clients, ...]`.
        batches: one a client; an empty one gives loss 0 and gradient 0.
    """
    rows = [Row(client, example) for client, batch in enumerate(batches) for example in batch]
    targets = [sum(len(example.target) for example in batch) for batch in batches]
    leaves = {key: tensor.detach().requires_grad_() for key, tensor in params.items()}
    prompts = stacked_prompts(leaves)
    share = torch.tensor([1 / targets[row.owner] for row in rows], device=prompts.device)
    sums, slopes = engine.gradients(prompts.detach(), rows, share)
    torch.autograd.backward(prompts, slopes)
    owner = torch.tensor([row.owner for row in rows], dtype=torch.long, device=prompts.device)
    losses = torch.zeros(len(batches), device=prompts.device).index_add(0, owner, sums * share)
    found = {key: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for key, leaf in leaves.items()}
    length = prompts.shape[1]
    counted = [count_tokens([Row(0, example) for example in batch], length) for batch in batches]
    return Gradients(found, losses, counted)


def solve(
    engine: Engine,
    params: Params,
    work: Sequence[ClientWork],
    optimizer: ClientOptimizerSettings,
    pull: float = 0.0,
    snapshots: Sequence[int] = (),
) -> tuple[LocalResult, dict[int, Params]]:
    """Train every client on its own batches from its own start.

    The objective of client k at step s is its mean loss per target token on batch s, plus
    `pull / 2 * |params - start|^2`. Clients may have different numbers of batches, or none. A client
    whose loss, gradient or next parameters are not finite stops there, keeps its last finite parameters,
    and is named in the result; the others go on.

    Args:
        engine: the frozen backbone.
        params: where each client starts, stacked `[clients, ...]`.
        work: each client's batches, one a step.
        optimizer: the client optimizer; its state starts fresh.
        pull: weight of the L2 pull to the start, lambda.
        snapshots: steps after which all clients' parameters are kept.

    Returns:
        The result, and the stacked parameters after each step of `snapshots`. A client that has fewer
        steps stands in later snapshots as it ended.
    """
    rule = optimizer.build()
    start = params = {key: tensor.detach() for key, tensor in params.items()}
    state = rule.init(params)
    losses: list[list[float]] = [[] for _ in work]
    tokens, stopped, kept = [0] * len(work), {}, {}
    for step in range(max([len(client.batches) for client in work] + list(snapshots), default=0)):
        batches: list[Batch] = [
            client.batches[step] if step < len(client.batches) and client.client not in stopped else ()
            for client in work
        ]
        if any(batches):
            found = gradients(engine, params, batches)
            pulled = {key: g + pull * (params[key] - start[key]) for key, g in found.gradients.items()}
            finite, before = finite_clients(found.losses, pulled), state.steps
            active = finite & torch.tensor([bool(batch) for batch in batches], device=finite.device)
            safe = {key: torch.nan_to_num(g) for key, g in pulled.items()}
            params, state = rule.update(params, safe, state, active)
            for k, batch in enumerate(batches):
                if not batch:
                    continue
                losses[k].append(float(found.losses[k]))
                tokens[k] += found.tokens[k]
                if state.steps[k] == before[k]:
                    what = "parameters" if finite[k] else "loss or gradient"
                    stopped[work[k].client] = f"{what} not finite at local step {step + 1}"
        if step + 1 in snapshots:
            kept[step + 1] = params
    return LocalResult(params, losses, state.steps.tolist(), tokens, stopped), kept


def finite_clients(losses: Tensor, gradients: Params) -> Tensor:
    """Tell which clients' loss and whole gradient are finite, `[clients]`."""
    return torch.isfinite(losses) & finite_slices(gradients)
