"""The engine: a frozen backbone and how it is computed, with memory bounded by a token budget."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedprofit.backbone.forward import Row, micro_batches, packed_losses, plain_losses
from fedprofit.backbone.generate import packed_generate, plain_generate
from fedprofit.backbone.load import Backbone
from fedprofit.errors import UserError
from fedprofit.types import Example

# Cache positions that generation may hold for each token of the budget: a forward pass with gradients
# keeps about this many times more per token than a key-value cache does.
CACHE_PER_TOKEN = 8


@dataclass(frozen=True)
class Engine:
    """A backbone, computed packed or plain, in micro-batches of at most `token_budget` tokens."""

    backbone: Backbone
    attention: str  # "packed", or an implementation of the model's own: "eager", "sdpa"
    token_budget: int = 1024

    def losses(self, prompts: Tensor, rows: Sequence[Row]) -> Tensor:
        """Return each row's summed negative log-likelihood `[rows]` in one differentiable pass."""
        if self.attention == "packed":
            return packed_losses(self.backbone, prompts, rows)
        return plain_losses(self.backbone, prompts, rows, self.attention)

    def batches(self, prompts: Tensor, rows: Sequence[Row]) -> list[list[int]]:
        """Split rows into micro-batches: lists of row numbers, each within the token budget."""
        return list(micro_batches(rows, prompts.shape[1], self.token_budget))

    def score(self, prompts: Tensor, rows: Sequence[Row]) -> Tensor:
        """Return each row's summed negative log-likelihood `[rows]`, float64, without gradient."""
        result = torch.zeros(len(rows), dtype=torch.float64)
        with torch.no_grad():
            for batch in self.batches(prompts, rows):
                sums = self.losses(prompts, [rows[number] for number in batch])
                result[batch] = sums.double().cpu()
        return result

    def generate(self, prompts: Tensor, rows: Sequence[Row], max_new_tokens: int) -> list[list[int]]:
        """Continue each row greedily; return the new tokens without the end-of-sequence token."""
        if self.attention == "packed":
            budget = CACHE_PER_TOKEN * self.token_budget
            return packed_generate(self.backbone, prompts, rows, max_new_tokens, budget)
        return plain_generate(self.backbone, prompts, rows, max_new_tokens, self.attention)


def make_engine(backbone: Backbone, attention: str = "auto", token_budget: int = 1024) -> Engine:
    """Choose how the backbone is computed.

    `packed` and `auto` are verified on a few tokens: packing must give the model's own losses. Where it
    does not (a model with attention of its own kind), `auto` falls back to eager attention and `packed`
    raises a UserError.
    """
    if attention in ("packed", "auto"):
        if packing_holds(backbone):
            return Engine(backbone, "packed", token_budget)
        if attention == "packed":
            raise UserError(
                f"backbone {backbone.name!r}: packed attention does not give this model's own losses. "
                "Set backbone.attention to auto or eager."
            )
        attention = "eager"
    return Engine(backbone, attention, token_budget)


def packing_holds(backbone: Backbone) -> bool:
    """Tell whether packed and plain losses agree on a small probe, ragged rows and prefixes included."""
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
    with torch.no_grad():
        try:
            packed = packed_losses(backbone, prompts, rows)
        except (TypeError, ValueError, AttributeError, RuntimeError, KeyError):
            return False  # the model does not hand its attention the layout
        plain = plain_losses(backbone, prompts, rows)
    tolerance = 1e-3 if backbone.dtype == torch.float32 else 3e-2
    return bool(torch.allclose(packed, plain, rtol=tolerance, atol=tolerance))
