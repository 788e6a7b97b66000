"""The engine: a frozen backbone and its computation path, with memory bounded by a token budget.

Losses, gradients and answers are computed in micro-batches, each a pure function of prompts and rows. Workers
compute micro-batches in parallel.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedprofit.backbone import paths
from fedprofit.backbone.batches import Batches, worker_batches
from fedprofit.backbone.features import LAST, mean_embeddings
from fedprofit.backbone.forward import Row, share_beginnings
from fedprofit.backbone.load import Backbone
from fedprofit.backbone.verify import verified_path
from fedprofit.backbone.workers import Task, Workers, shared_workers, worker_count


@dataclass(frozen=True)
class Engine:
    """A backbone with a computation path, and at most `token_budget` tokens in memory at once."""

    backbone: Backbone
    attention: str  # a path of `paths.py`
    token_budget: int = 2048
    workers: int = 1  # processes that share the budget; 1: this process only
    reason: str = ""  # reason for the path

    def gradients(self, prompts: Tensor, rows: Sequence[Row], weights: Tensor) -> tuple[Tensor, Tensor]:
        """Differentiate a weighted sum of the rows' losses by the prompts.

        Args:
            prompts: `[clients, length, width]`.
            rows: the examples, each with its client.
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
            rows: the examples, each with its client.
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
        """Score each row's target and continue the row greedily; each row is read once.

        Returns the losses, as `score` does, and the new tokens without the end-of-sequence token.
        """
        rows = share_beginnings(rows)
        batches = self.batches(prompts, rows, max_new_tokens)
        extras = [(max_new_tokens, self.token_budget)] * len(batches)
        return self._answers(paths.answer, prompts, rows, batches, extras)

    def score_mixture(self, prompts: Tensor, weights: Sequence[float], rows: Sequence[Row]) -> Tensor:
        """Return each row's loss under an ensemble of prompts `[rows]`, float64, without gradient.

        Args:
            prompts: `[clients, members, length, width]`.
            weights: of the members; they sum to 1 (see `ensemble.py` for the formula).
            rows: the examples, each with its client.
        """
        return self._mixture(prompts, weights, rows, 0)[0]

    def answer_mixture(
        self, prompts: Tensor, weights: Sequence[float], rows: Sequence[Row], max_new_tokens: int
    ) -> tuple[Tensor, list[list[int]]]:
        """Score each row's target under an ensemble and continue the row greedily; see `score_mixture`.

        Returns the losses, and the new tokens without the end-of-sequence token.
        """
        return self._mixture(prompts, weights, rows, max_new_tokens)

    def _mixture(
        self, prompts: Tensor, weights: Sequence[float], rows: Sequence[Row], most: int
    ) -> tuple[Tensor, list[list[int]]]:
        rows, count = share_beginnings(rows), prompts.shape[1]
        batches = worker_batches(
            rows, prompts.shape[2], max(1, self.token_budget // count), self.workers, most
        )
        extras = [(tuple(weights), most, self.token_budget)] * len(batches)
        return self._answers(paths.mixture, prompts, rows, batches, extras)

    def _answers(
        self,
        function: Callable[..., Task],
        prompts: Tensor,
        rows: Sequence[Row],
        batches: Batches,
        extras: Sequence[Task],
    ) -> tuple[Tensor, list[list[int]]]:
        """Compute losses and answers batch by batch, and return them in the order of the rows."""
        losses = torch.zeros(len(rows), dtype=torch.float64)
        answers: list[list[int]] = [[] for _ in rows]
        for batch, _, (sums, found) in self._compute(function, prompts, rows, batches, extras):
            losses[batch] = sums.double().cpu()
            for number, answer in zip(batch, found, strict=True):
                answers[number] = answer
        return losses, answers

    def mean_embeddings(self, rows: Sequence[Row]) -> Tensor:
        """Return the mean token embedding of each row's source, `[rows, width]`, float32."""
        if not rows:
            return torch.zeros(0, self.backbone.width)
        return mean_embeddings(self.backbone, rows).cpu()

    def hidden_states(self, rows: Sequence[Row], depth: int = LAST) -> Tensor:
        """Return each row's mean hidden state over its source, `[rows, width]`, float32.

        The frozen model reads prefix and source without a prompt; each text is read once.

        Args:
            rows: the examples; owners and targets are ignored.
            depth: 0 for the input embeddings, k for the output of layer k, -1 for the last hidden state.
        """
        if not rows:
            return torch.zeros(0, self.backbone.width)
        texts = [(row.example.prefix.tobytes(), row.example.source.tobytes()) for row in rows]
        number = {text: n for n, text in enumerate(dict.fromkeys(texts))}
        first = dict(zip(texts, rows, strict=True))
        distinct = [replace(first[text], owner=0, target=False) for text in number]
        nothing = torch.zeros(1, 0, self.backbone.width, device=self.backbone.device)
        batches = self.batches(nothing, distinct)
        found = torch.zeros(len(distinct), self.backbone.width)
        extras = [(depth,)] * len(batches)
        for batch, _, (means,) in self._compute(paths.states, nothing, distinct, batches, extras):
            found[batch] = means.cpu()
        return found[[number[text] for text in texts]]

    def input_likelihood(self, prompts: Tensor, rows: Sequence[Row]) -> Tensor:
        """Return the mean log-likelihood per token of each row's source under its prompt, `[rows]`.

        The first token of a source is not predicted; a source of one token has likelihood 0.
        """
        found = torch.zeros(len(rows), dtype=torch.float64)
        long = [number for number, row in enumerate(rows) if len(row.example.source) > 1]
        if long:
            sources = [rows[number].example.source for number in long]
            read = [
                Row(rows[number].owner, replace(rows[number].example, source=source[:1], target=source[1:]))
                for number, source in zip(long, sources, strict=True)
            ]
            counts = torch.tensor([len(source) - 1 for source in sources], dtype=torch.float64)
            found[long] = -self.score(prompts, read) / counts
        return found

    def batches(self, prompts: Tensor, rows: Sequence[Row], new: int = 0) -> Batches:
        """Split rows, each followed by `new` generated tokens, within each worker's token budget."""
        return worker_batches(rows, prompts.shape[1], self.token_budget, self.workers, new)

    def processes(self) -> list[int]:
        """Return the process ids of the running workers."""
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
        """Let the workers compute each batch, given only its own prompts.

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
    """Select the computation path: the first that is verified to equal the plain model.

    `attention` "auto" tests all of `verify.AUTO`; any other value names one path. `workers` is a number of
    processes, or "auto" (see `worker_count`). `reach` is the longest row in tokens, prompt and answer
    included.

    Raises:
        UserError: the model cannot be used, or the named path is not exact for it.
    """
    verdict = verified_path(backbone, attention, reach)
    count = worker_count(workers, backbone, token_budget)
    return Engine(backbone, verdict.path, token_budget, count, verdict.reason)
