"""The local solver: K clients trained at once on one frozen backbone.

The clients' parameters are stacked, `[clients, ...]`. A client's loss depends only on its own slice.
Therefore the gradient of the sum of all losses contains each client's gradient in its slice: one backward
pass computes all. Micro-batches split that sum. `reference.py` computes the same one client at a time; tests
compare the two.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedprofit.backbone.engine import Engine
from fedprofit.backbone.forward import Row, count_tokens
from fedprofit.core.types import Batch, ClientBatches, LocalResult, Params
from fedprofit.local.base import Gradients, Step, Term
from fedprofit.local.objective import with_terms
from fedprofit.local.optimizer import ClientOptimizerSettings
from fedprofit.local.stacked import finite_clients
from fedprofit.tuner.base import Tuner
from fedprofit.tuner.prompt import SOFT_PROMPT


@dataclass(frozen=True)
class Vectorized:
    """The local solver of an engine: `LocalSolver` documents its methods."""

    engine: Engine
    tuner: Tuner = SOFT_PROMPT

    def gradients(self, params: Params, batches: Sequence[Batch]) -> Gradients:
        """Compute each client's mean loss per target token on its batch, and its gradient."""
        return gradients(self.engine, params, batches, self.tuner)

    def divergences(self, params: Params, reference: Params, batches: Sequence[Batch]) -> Gradients:
        """Compute each client's mean KL divergence per target token from a reference, and its gradient."""
        before = self.tuner.apply(reference).detach()
        return _differentiated(
            params,
            batches,
            self.tuner,
            lambda now, rows, share: self.engine.divergences(now, before, rows, share),
        )

    def solve(
        self,
        params: Params,
        cohort: Sequence[ClientBatches],
        optimizer: ClientOptimizerSettings,
        terms: Sequence[Term] = (),
        snapshots: Sequence[int] = (),
    ) -> tuple[LocalResult, dict[int, Params]]:
        """Train every client on its own batches from its own start."""
        return solve(self.engine, params, cohort, optimizer, terms, snapshots, self.tuner)


def gradients(
    engine: Engine, params: Params, batches: Sequence[Batch], tuner: Tuner = SOFT_PROMPT
) -> Gradients:
    """Compute each client's mean loss per target token on its batch, and its gradient; see `LocalSolver`."""
    return _differentiated(params, batches, tuner, engine.gradients)


def _differentiated(
    params: Params,
    batches: Sequence[Batch],
    tuner: Tuner,
    compute: Callable[[Tensor, Sequence[Row], Tensor], tuple[Tensor, Tensor]],
) -> Gradients:
    """Average an engine's values of rows over each client's target tokens, and return the gradients."""
    rows = [Row(client, example) for client, batch in enumerate(batches) for example in batch]
    targets = [sum(len(example.target) for example in batch) for batch in batches]
    leaves = {key: tensor.detach().requires_grad_() for key, tensor in params.items()}
    prompts = tuner.apply(leaves)
    share = torch.tensor([1 / targets[row.owner] for row in rows], device=prompts.device)
    sums, slopes = compute(prompts.detach(), rows, share)
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
    cohort: Sequence[ClientBatches],
    optimizer: ClientOptimizerSettings,
    terms: Sequence[Term] = (),
    snapshots: Sequence[int] = (),
    tuner: Tuner = SOFT_PROMPT,
) -> tuple[LocalResult, dict[int, Params]]:
    """Train every client on its own batches from its own start; see `LocalSolver`."""
    rule = optimizer.build()
    params = {key: tensor.detach() for key, tensor in params.items()}
    state = rule.init(params)
    losses: list[list[float]] = [[] for _ in cohort]
    tokens, stopped = [0] * len(cohort), dict[str, str]()
    solver, names = Vectorized(engine), [one.client for one in cohort]
    kept = {0: params} if 0 in snapshots else {}
    for step in range(max([len(one.batches) for one in cohort] + list(snapshots), default=0)):
        batches: list[Batch] = [
            client.batches[step] if step < len(client.batches) and client.client not in stopped else ()
            for client in cohort
        ]
        if any(batches):
            found = gradients(engine, params, batches, tuner)
            slopes = with_terms(Step(params, batches, found, solver), terms, names, step + 1)
            finite, before = finite_clients(found.losses, slopes), state.steps
            active = finite & torch.tensor([bool(batch) for batch in batches], device=finite.device)
            safe = {key: torch.nan_to_num(g) for key, g in slopes.items()}
            params, state = rule.update(params, safe, state, active)
            for k, batch in enumerate(batches):
                if not batch:
                    continue
                losses[k].append(float(found.losses[k]))
                tokens[k] += found.tokens[k]
                if state.steps[k] == before[k]:
                    what = "parameters" if finite[k] else "loss or gradient"
                    stopped[cohort[k].client] = f"{what} not finite at local step {step + 1}"
        if step + 1 in snapshots:
            kept[step + 1] = params
    return LocalResult(params, losses, state.steps.tolist(), tokens, stopped), kept
