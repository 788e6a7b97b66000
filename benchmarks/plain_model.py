"""What plain transformers computes of rows under soft prompts: what `architectures.py` compares with."""

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
WORDS = 300  # ids that texts are drawn from: below the control tokens of models that read pictures

# Rows by client: tokens of the shared prefix, of the source, of the target. Windows, chunks and original
# contexts of the tiny models are 16, 24 and 32 tokens long.
ROWS = {
    0: [(5, 3, 3), (5, 9, 1), (27, 2, 4), (27, 6, 2), (27, 30, 3), (0, 10, 5)],
    1: [(5, 4, 2), (18, 2, 3), (18, 9, 1), (0, 12, 3), (0, 40, 4)],
}


def draw_rows(seed: int) -> list[Row]:
    """Draw the rows of `ROWS`; a client's rows with prefixes of one length share the prefix."""
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
    """Return how many tokens a row reaches, with its prompt, and its target or an answer."""
    example = row.example
    return PROMPT + len(example.prefix) + len(example.source) + max(len(example.target), NEW)


class Oracle:
    """Plain transformers, one row at a time: no mask, no positions, nothing kept between tokens."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval().requires_grad_(False)

    def embed(self, ids: Any) -> Tensor:
        """Return token embeddings `[tokens, width]`."""
        embedded: Tensor = self.model.get_input_embeddings()(torch.as_tensor(ids, dtype=torch.long))
        return embedded

    def logits(self, prompt: Tensor, ids: Any) -> Tensor:
        """Return the logits `[length + tokens, vocabulary]` of a prompt and the tokens after it."""
        inputs = torch.cat([prompt, self.embed(ids)]).unsqueeze(0)
        logits: Tensor = self.model(inputs_embeds=inputs, use_cache=False).logits[0]
        return logits

    def loss(self, prompt: Tensor, example: Example) -> Tensor:
        """Return the negative log-likelihood of a target, summed over its tokens."""
        return loss_of(self.logits(prompt, read(example)), example)

    def gradients(self, prompts: Tensor, rows: Sequence[Row], weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows' losses, and the gradient of their weighted sum by the prompts."""
        leaf = prompts.detach().requires_grad_()
        losses = torch.stack([self.loss(leaf[row.owner], row.example) for row in rows])
        (slopes,) = torch.autograd.grad((losses * weights).sum(), leaf)
        return losses.detach(), slopes

    def losses_by_ids(self, rows: Sequence[Row]) -> Tensor:
        """Return the rows' losses without a prompt, from token ids instead of embeddings."""
        found = []
        for row in rows:
            ids = torch.as_tensor(read(row.example), dtype=torch.long).unsqueeze(0)
            with torch.no_grad():
                found.append(loss_of(self.model(input_ids=ids, use_cache=False).logits[0], row.example))
        return torch.stack(found)

    def short_of_greedy(self, prompts: Tensor, row: Row, answer: list[int], stop: list[int]) -> float:
        """Return by how much, relative, a token of an answer falls short of the best; 0 if none does."""
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


def read(example: Example) -> Any:
    """Return what is read of an example: all but the last token of the target, which is only predicted."""
    return np.concatenate([example.prefix, example.source, example.target[:-1]])


def loss_of(logits: Tensor, example: Example) -> Tensor:
    """Return the summed negative log-likelihood of an example's target by the last logits."""
    target = torch.as_tensor(example.target, dtype=torch.long)
    return cross_entropy(logits[-len(target) :], target, reduction="sum")
