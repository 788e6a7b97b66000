"""Test rows for the verification of a computation path, with the losses and gradients of the plain model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedprofit.backbone import paths
from fedprofit.backbone.forward import Row
from fedprofit.backbone.load import Backbone
from fedprofit.core.types import Example

NEAR = 6  # tokens by which rows are shorter or longer than a length
NEW = 6  # tokens generated
GRADIENTS = 1024  # longest row whose gradient is compared; longer rows compare only losses


@dataclass(frozen=True)
class Probe:
    """Test rows around the relevant lengths, with the losses and gradients of the plain model."""

    prompts: Tensor  # [3, 3, width]
    rows: list[Row]
    weights: Tensor  # [rows]; 0 for rows whose gradients are not compared
    losses: Tensor  # [rows]
    gradients: Tensor  # [3, 3, width]

    @classmethod
    def draw(cls, backbone: Backbone, lengths: Sequence[int], few: bool = False) -> "Probe":
        """Draw rows and prompts with a fixed seed; compute losses and gradients row by row."""
        random = np.random.Generator(np.random.PCG64(0))
        prompts = _off_vocabulary(backbone, random)
        rows = _short_rows(backbone, random)[: 2 if few else None]
        for length in lengths:
            rows += _rows_around(backbone, random, length, prompts.shape[1])
        weights = torch.tensor([float(row.tokens <= GRADIENTS) for row in rows], device=prompts.device)
        losses = torch.zeros(len(rows), device=prompts.device)
        gradients = torch.zeros_like(prompts)
        for number, row in enumerate(rows):
            single = [replace(row, owner=0)]
            prompt = prompts[row.owner : row.owner + 1]
            if weights[number]:
                losses[number], found = paths.gradients(backbone, paths.SINGLE, prompt, single, weights[:1])
                gradients[row.owner] += found[0]
            else:
                losses[number] = paths.score(backbone, paths.SINGLE, prompt, single)[0]
        return cls(prompts, rows, weights, losses, gradients)


def _off_vocabulary(backbone: Backbone, random: np.random.Generator) -> Tensor:
    """Return three prompts of three vectors that, like trained ones, are not vocabulary embeddings."""
    count = backbone.vocabulary_size
    pairs = backbone.embed(torch.as_tensor(random.integers(0, count, (2, 9)))).float()
    noise = torch.as_tensor(random.standard_normal((9, backbone.width)), dtype=torch.float32)
    scale = pairs.std()
    return (pairs.mean(0) + 0.5 * scale * noise.to(scale.device)).reshape(3, 3, -1)


def _short_rows(backbone: Backbone, random: np.random.Generator) -> list[Row]:
    shared = _tokens(backbone, random, 5)
    nothing = _tokens(backbone, random, 0)
    drawn = ((0, shared, 9), (0, shared, 3), (1, nothing, 4))
    return [_row(backbone, random, owner, prefix, length) for owner, prefix, length in drawn]


def _rows_around(backbone: Backbone, random: np.random.Generator, length: int, prompt: int) -> list[Row]:
    """Return rows shorter and longer than `length`, due to a long prefix or a long source."""
    limit = backbone.context_length or 2**31
    prefix = _tokens(backbone, random, max(0, length - prompt - NEAR))
    nothing = _tokens(backbone, random, 0)
    drawn = ((0, prefix, 2), (0, prefix, NEAR + 3), (2, nothing, length))
    rows = [_row(backbone, random, owner, before, count) for owner, before, count in drawn]
    return [row for row in rows if prompt + len(row.example.prefix) + row.tokens + NEW <= limit]


def _row(backbone: Backbone, random: np.random.Generator, owner: int, prefix: Any, length: int) -> Row:
    source, target = (_tokens(backbone, random, count) for count in (length, 3))
    return Row(owner, Example(prefix, source, target, "", ()))


def _tokens(backbone: Backbone, random: np.random.Generator, count: int) -> Any:
    return random.integers(0, backbone.vocabulary_size, count).astype(np.int32)
