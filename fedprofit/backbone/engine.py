"""The engine: a frozen backbone and how it is computed, with memory bounded by a token budget.

What is asked of it (losses, gradients, answers) is split into micro-batches, each a pure function of
some prompts and rows; workers compute them side by side.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedprofit.backbone import paths
from fedprofit.backbone.batches import Batches, worker_batches
from fedprofit.backbone.forward import Row, share_beginnings
from fedprofit.backbone.load import Backbone
from fedprofit.backbone.verify import verified_path
from fedprofit.backbone.workers import Task, Workers, shared_workers, worker_count


@dataclass(frozen=True)
class Engine:
    """A backbone, computed packed or plain, with at most `token_budget` tokens in flight."""

    backbone: Backbone
    attention: str  # a path of `paths.py`
    token_budget: int = 2048
    workers: int = 1  # processes that share the budget; 1: all in this one
    reason: str = ""  # why this path

    def gradients(self, prompts: Tensor, rows: Sequence[Row], weights: Tensor) -> tuple[Tensor, Tensor]:
        """Differentiate a weighted sum of the rows' losses by the prompts.

        Args:
            prompts: `[clients, length, width]`.
            rows: what to read under which prompt.
            weights: `[rows]`, of each row's loss in the sum.

        Returns:
            Each row's summed negative log-likelihood `[rows]`, and the gradient, shaped as the prompts.
        """
        rows = share_beginnings(rows)
        batches = self.batches(prompts, rows)
        extras = [(weights[batch],) for batch in batches]
        return self._differentiated(paths.gradients, prompts, rows, batches, extras)

    def divergences(
        self, prompts: Tensor, reference: Tensor, rows: Sequence[Row], weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Differentiate a weighted sum of the rows' KL divergences from a reference by the prompts.

        Args:
            prompts: `[clients, length, width]`.
            reference: the reference prompts, `[clients, any length, width]`.
            rows: what to read under which prompt.
            weights: `[rows]`, of each row's divergence in the sum.

        Returns:
            Each row's KL(reference || current), summed over its target positions, in nats, `[rows]`; and the
            gradient, shaped as the prompts.
        """
        rows = share_beginnings(rows)
        longer = prompts if prompts.shape[1] > reference.shape[1] else reference
        batches = self.batches(longer, rows)
        extras = [(reference[_owners(rows, batch)], weights[batch]) for batch in batches]
        return self._differentiated(paths.divergence_gradients, prompts, rows, batches, extras)

    def _differentiated(
        self,
        function: Callable[..., Task],
        prompts: Tensor,
        rows: Sequence[Row],
        batches: Batches,
        extras: Sequence[Task],
    ) -> tuple[Tensor, Tensor]:
        values, gradient = torch.zeros(len(rows), device=prompts.device), torch.zeros_like(prompts)
        for batch, owners, (sums, slopes) in self._compute(function, prompts, rows, batches, extras):
            values[batch] = sums
            gradient[owners] += slopes
        return values, gradient

    def score(self, prompts: Tensor, rows: Sequence[Row]) -> Tensor:
        """Return each row's summed negative log-likelihood `[rows]`, float64, without gradient."""
        losses = torch.zeros(len(rows), dtype=torch.float64)
        rows = share_beginnings(rows)
        batches = self.batches(prompts, rows)
        for batch, _, (sums,) in self._compute(paths.score, prompts, rows, batches, [()] * len(batches)):
            losses[batch] = sums.double().cpu()
        return losses

    def answer(
        self, prompts: Tensor, rows: Sequence[Row], max_new_tokens: int
    ) -> tuple[Tensor, list[list[int]]]:
        """Score each row's target and continue the row greedily, from one reading.

        Returns the losses, as `score` does, and the new tokens without the end-of-sequence token.
        """
        rows = share_beginnings(rows)
        batches = self.batches(prompts, rows, max_new_tokens)
        extras = [(max_new_tokens, self.token_budget)] * len(batches)
        losses = torch.zeros(len(rows), dtype=torch.float64)
        answers: list[list[int]] = [[] for _ in rows]
        for batch, _, (sums, found) in self._compute(paths.answer, prompts, rows, batches, extras):
            losses[batch] = sums.double().cpu()
            for number, answer in zip(batch, found, strict=True):
                answers[number] = answer
        return losses, answers

    def batches(self, prompts: Tensor, rows: Sequence[Row], new: int = 0) -> Batches:
        """Split rows, behind which `new` tokens are to be generated, within each worker's token budget."""
        return worker_batches(rows, prompts.shape[1], self.token_budget, self.workers, new)

    def processes(self) -> list[int]:
        """Return the process ids of the workers that run now."""
        return self._pool.processes()

    @property
    def _pool(self) -> Workers:
        return shared_workers(self.backbone, self.workers)

    def _compute(
        self,
        function: Callable[..., Task],
        prompts: Tensor,
        rows: Sequence[Row],
        batches: Batches,
        extras: Sequence[Task],
    ) -> Iterator[tuple[list[int], list[int], Task]]:
        """Let the workers compute each batch on its own prompts alone.

        Yields the batch, its owners' numbers, and `function(backbone, attention, prompts, rows, *extra)`.
        """
        owners = [_owners(rows, batch) for batch in batches]
        tasks: list[Task] = []
        for batch, own, extra in zip(batches, owners, extras, strict=True):
            place = {owner: j for j, owner in enumerate(own)}
            members = [replace(rows[number], owner=place[rows[number].owner]) for number in batch]
            tasks.append((self.attention, prompts[own], members, *extra))
        yield from zip(batches, owners, self._pool.map(function, tasks), strict=True)


def _owners(rows: Sequence[Row], batch: Sequence[int]) -> list[int]:
    return sorted({rows[number].owner for number in batch})


def make_engine(
    backbone: Backbone,
    attention: str = "auto",
    token_budget: int = 2048,
    workers: int | str = "auto",
    reach: int = 0,
) -> Engine:
    """Choose how the backbone is computed: by the first path that is verified to be the model's own.

    `attention` "auto" tries all of `verify.AUTO`; any other names one path. `workers` is a number of
    processes, or "auto" (see `worker_count`). `reach` is the longest row in tokens, prompt and answer
    included.

    Raises:
        UserError: the model cannot be used, or the path asked for by name is not exact for it.
    """
    verdict = verified_path(backbone, attention, reach)
    count = worker_count(workers, backbone, token_budget)
    return Engine(backbone, verdict.path, token_budget, count, verdict.reason)
