"""The engine: a frozen backbone and how it is computed, with memory bounded by a token budget.

What is asked of it (losses, gradients, answers) is split into micro-batches, each a pure function of
some prompts and rows; workers compute them side by side.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fedprofit.backbone.batches import Batches, worker_batches
from fedprofit.backbone.forward import Row, packed_losses, plain_losses, share_beginnings
from fedprofit.backbone.fused import available, fuse
from fedprofit.backbone.generate import packed_generate, plain_generate
from fedprofit.backbone.load import Backbone
from fedprofit.backbone.workers import Task, Workers, shared_workers, worker_count
from fedprofit.errors import UserError
from fedprofit.types import Example


@dataclass(frozen=True)
class Engine:
    """A backbone, computed packed or plain, with at most `token_budget` tokens in flight."""

    backbone: Backbone
    attention: str  # "fused" or "packed", or an implementation of the model's own: "eager", "sdpa"
    token_budget: int = 2048
    workers: int = 1  # processes that share the budget; 1: all in this one

    def gradients(self, prompts: Tensor, rows: Sequence[Row], weights: Tensor) -> tuple[Tensor, Tensor]:
        """Differentiate a weighted sum of the rows' losses by the prompts.

        Args:
            prompts: `[clients, length, width]`.
            rows: what to read under which prompt.
            weights: `[rows]`, of each row's loss in the sum.

        Returns:
            Each row's summed negative log-likelihood `[rows]`, and the gradient, shaped as the prompts.
        """
        losses, gradient = torch.zeros(len(rows), device=prompts.device), torch.zeros_like(prompts)
        rows = share_beginnings(rows)
        batches = self.batches(prompts, rows)
        extras = [(weights[batch],) for batch in batches]
        for batch, owners, (sums, slopes) in self._compute(_gradients, prompts, rows, batches, extras):
            losses[batch] = sums
            gradient[owners] += slopes
        return losses, gradient

    def score(self, prompts: Tensor, rows: Sequence[Row]) -> Tensor:
        """Return each row's summed negative log-likelihood `[rows]`, float64, without gradient."""
        losses = torch.zeros(len(rows), dtype=torch.float64)
        rows = share_beginnings(rows)
        batches = self.batches(prompts, rows)
        for batch, _, (sums,) in self._compute(_score, prompts, rows, batches, [()] * len(batches)):
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
        for batch, _, (sums, found) in self._compute(_answer, prompts, rows, batches, extras):
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
        owners = [sorted({rows[number].owner for number in batch}) for batch in batches]
        tasks: list[Task] = []
        for batch, own, extra in zip(batches, owners, extras, strict=True):
            place = {owner: j for j, owner in enumerate(own)}
            members = [replace(rows[number], owner=place[rows[number].owner]) for number in batch]
            tasks.append((self.attention, prompts[own], members, *extra))
        yield from zip(batches, owners, self._pool.map(function, tasks), strict=True)


def _losses(backbone: Backbone, attention: str, prompts: Tensor, rows: Sequence[Row]) -> Tensor:
    if attention in ("fused", "packed"):
        return packed_losses(backbone, prompts, rows, fused=attention == "fused")
    return plain_losses(backbone, prompts, rows, attention)


def _gradients(
    backbone: Backbone, attention: str, prompts: Tensor, rows: Sequence[Row], weights: Tensor
) -> tuple[Tensor, Tensor]:
    leaf = prompts.detach().requires_grad_()
    losses = _losses(backbone, attention, leaf, rows)
    torch.autograd.backward((losses * weights).sum())
    assert leaf.grad is not None
    return losses.detach(), leaf.grad


def _score(backbone: Backbone, attention: str, prompts: Tensor, rows: Sequence[Row]) -> tuple[Tensor]:
    with torch.no_grad():
        return (_losses(backbone, attention, prompts, rows),)


def _answer(
    backbone: Backbone, attention: str, prompts: Tensor, rows: Sequence[Row], most: int, budget: int
) -> tuple[Tensor, list[list[int]]]:
    if attention in ("fused", "packed"):
        return packed_generate(backbone, prompts, rows, most, budget, fused=attention == "fused")
    (losses,) = _score(backbone, attention, prompts, rows)
    return losses, plain_generate(backbone, prompts, rows, most, attention)


def make_engine(
    backbone: Backbone, attention: str = "auto", token_budget: int = 2048, workers: int | str = "auto"
) -> Engine:
    """Choose how the backbone is computed.

    `fused` and `packed` are verified on a few tokens: they must give the model's own losses and gradients.
    `auto` is the first of them that does, else eager attention; `fused` needs layers of Llama's shape, a
    CPU and the package numba. `workers` is a number of processes, or "auto" (see `worker_count`).

    Raises:
        UserError: fused or packed was asked for by name and does not hold for this model.
    """
    count = worker_count(workers, backbone, token_budget)
    for way in ("fused", "packed"):
        if attention in (way, "auto") and holds(backbone, way):
            return Engine(backbone, way, token_budget, count)
    if attention in ("fused", "packed"):
        needs = " It needs layers of Llama's shape, a CPU, and `pip install numba`." * (attention == "fused")
        raise UserError(
            f"backbone {backbone.name!r}: {attention} attention does not give this model's own losses."
            f"{needs} Set backbone.attention to auto or eager."
        )
    return Engine(backbone, "eager" if attention == "auto" else attention, token_budget, count)


@lru_cache(maxsize=2)  # a process that computes many runs asks again for each
def holds(backbone: Backbone, way: str) -> bool:
    """Tell whether a way gives plain losses and gradients on a small probe of ragged rows and prefixes."""
    draw = np.random.Generator(np.random.PCG64(0))
    size = len(backbone.tokenizer)

    def tokens(count: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        return draw.integers(0, size, count).astype(np.int32)

    shared = tokens(5)
    rows = [
        Row(owner, Example(prefix, tokens(length), tokens(2), "", ()))
        for owner, prefix, length in ((0, shared, 7), (0, shared, 3), (1, tokens(0), 4))
    ]
    prompts = backbone.embed(torch.as_tensor(tokens(6), dtype=torch.long)).reshape(2, 3, -1).float()
    weights = torch.ones(len(rows), device=prompts.device)
    try:
        if way == "fused" and not (available(backbone.device, backbone.dtype) and fuse(backbone.model)):
            return False
        losses, slopes = _gradients(backbone, way, prompts, rows, weights)
    except (TypeError, ValueError, AttributeError, RuntimeError, KeyError, ImportError, OSError):
        return False  # the model does not hand its attention the layout, or a library is there and broken
    plain, plain_slopes = _gradients(backbone, "eager", prompts, rows, weights)
    exact = backbone.dtype == torch.float32
    same = torch.allclose(losses, plain, rtol=1e-3 if exact else 3e-2, atol=1e-3 if exact else 3e-2)
    # Rounding to half precision adds up over the layers; a wrong formula turns the gradient elsewhere.
    off = (slopes - plain_slopes).norm() / plain_slopes.norm()
    return same and bool(off < (1e-3 if exact else 0.3))
