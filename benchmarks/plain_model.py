"""Losses, gradients and answers of plain transformers: the reference of `architectures.py`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedprofit.backbone.forward import Row
from fedprofit.core.types import Example

PROMPT = 3  # vectors of a prompt
NEW = 8  # tokens of an answer
WORDS = 300  # texts consist of ids below this: image models have control tokens above

# Rows by client: tokens of the shared prefix, of the source, of the target. Windows, chunks and original
# contexts of the tiny models have 16, 24 and 32 tokens.
ROWS = {
    0: [(5, 3, 3), (5, 9, 1), (27, 2, 4), (27, 6, 2), (27, 30, 3), (0, 10, 5)],
    1: [(5, 4, 2), (18, 2, 3), (18, 9, 1), (0, 12, 3), (0, 40, 4)],
}


def draw_rows(seed: int) -> list[Row]:
    """Draw the rows of `ROWS`; rows of a client with equal prefix length share the prefix."""
    draw = np.random.default_rng(seed)

    def tokens(count: int) -> Any:
        return draw.integers(3, WORDS, count).astype(np.int32)

    found = []
    for owner, sizes in ROWS.items():
        prefixes = {length: tokens(length) for length, _, _ in sizes}
        for prefix, source, target in sizes:
            example = Example(prefixes[prefix], tokens(source), tokens(target), "", ())
            found.append(Row(owner, example))
    return found


def longest(row: Row) -> int:
    """Return the tokens of a row, including its prompt and its target or an answer."""
    example = row.example
    return PROMPT + len(example.prefix) + len(example.source) + max(len(example.target), NEW)


class Oracle:
    """Plain transformers, one row at a time, without mask, positions or cache."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval().requires_grad_(False)

    def embed(self, ids: Any) -> Tensor:
        """Return token embeddings `[tokens, width]`."""
        embedded: Tensor = self.model.get_input_embeddings()(torch.as_tensor(ids, dtype=torch.long))
        return embedded

    def logits(self, prompt: Tensor, ids: Any) -> Tensor:
        """Return the logits `[length + tokens, vocabulary]` of a prompt and its text."""
        inputs = torch.cat([prompt, self.embed(ids)]).unsqueeze(0)
        logits: Tensor = self.model(inputs_embeds=inputs, use_cache=False).logits[0]
        return logits

    def loss(self, prompt: Tensor, example: Example) -> Tensor:
        """Return the negative log-likelihood of a target, summed over its tokens."""
        return loss_of(self.logits(prompt, input_ids(example)), example)

    def gradients(self, prompts: Tensor, rows: Sequence[Row], weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses of rows, and the gradient of their weighted sum with respect to the prompts."""
        leaf = prompts.detach().requires_grad_()
        losses = torch.stack([self.loss(leaf[row.owner], row.example) for row in rows])
        (gradients,) = torch.autograd.grad((losses * weights).sum(), leaf)
        return losses.detach(), gradients

    def losses_by_ids(self, rows: Sequence[Row]) -> Tensor:
        """Return the losses of rows without a prompt, from token ids instead of embeddings."""
        found = []
        for row in rows:
            ids = torch.as_tensor(input_ids(row.example), dtype=torch.long).unsqueeze(0)
            with torch.no_grad():
                found.append(loss_of(self.model(input_ids=ids, use_cache=False).logits[0], row.example))
        return torch.stack(found)

    def greedy_gap(self, prompts: Tensor, row: Row, answer: list[int], stop: list[int]) -> float:
        """Return the largest relative gap between the best logit and the answer's; 0 if it is greedy."""
        text = [*row.example.prefix.tolist(), *row.example.source.tolist()]
        worst = 0.0
        ends = len(answer) < NEW
        for number in range(len(answer) + ends):
            with torch.no_grad():
                logits = self.logits(prompts[row.owner], text + answer[:number])[-1]
            chosen = logits[answer[number]] if number < len(answer) else logits[stop].max()
            if number < len(answer) and answer[number] in stop:
                return float("inf")
            worst = max(worst, float((logits.max() - chosen) / (1 + logits.max().abs())))
        return worst


def input_ids(example: Example) -> Any:
    """Return the input tokens of an example: all but the last token of the target, which is predicted."""
    return np.concatenate([example.prefix, example.source, example.target[:-1]])


def loss_of(logits: Tensor, example: Example) -> Tensor:
    """Return the summed negative log-likelihood of an example's target under the last logits."""
    target = torch.as_tensor(example.target, dtype=torch.long)
    return cross_entropy(logits[-len(target) :], target, reduction="sum")
