"""The computation paths of a backbone, each a set of functions of prompts and rows.

    fused   packed, with layers of Llama's shape in compiled loops (`fused.py`)
    packed  all tokens in one flat row; only attention separates rows (`packing.py`)
    eager, sdpa  the model's own attention on padded batches
    single  one row at a time, without a cache; the reference for the others

All take a stack of prompts `[clients, length, width]` and return the same as `single`. `verify.py` selects
the paths that are exact for a model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedprofit.backbone.divergence import packed_divergences, plain_divergences
from fedprofit.backbone.ensemble import packed_mixture, single_mixture
from fedprofit.backbone.features import packed_states, single_states
from fedprofit.backbone.forward import Row, packed_losses, plain_losses, single_losses
from fedprofit.backbone.generate import packed_generate, plain_generate, single_generate
from fedprofit.backbone.load import Backbone

PACKED = ("fused", "packed")
SINGLE = "single"


def losses(backbone: Backbone, path: str, prompts: Tensor, rows: Sequence[Row]) -> Tensor:
    """Return each row's summed negative log-likelihood over its target `[rows]`, differentiably."""
    if path in PACKED:
        return packed_losses(backbone, prompts, rows, fused=path == "fused")
    if path == SINGLE:
        return single_losses(backbone, prompts, rows)
    return plain_losses(backbone, prompts, rows, path)


def gradients(
    backbone: Backbone, path: str, prompts: Tensor, rows: Sequence[Row], weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the rows' losses `[rows]`, and the gradient of their weighted sum, shaped as the prompts."""
    leaf = prompts.detach().requires_grad_()
    return _differentiated(losses(backbone, path, leaf, rows), weights, leaf)


def _differentiated(found: Tensor, weights: Tensor, leaf: Tensor) -> tuple[Tensor, Tensor]:
    torch.autograd.backward((found * weights).sum())
    assert leaf.grad is not None
    return found.detach(), leaf.grad


def divergences(
    backbone: Backbone, path: str, prompts: Tensor, reference: Tensor, rows: Sequence[Row]
) -> Tensor:
    """Return each row's KL(reference || current), summed over its target positions `[rows]`.

    It is differentiable by the prompts, not by the reference.
    """
    if path in PACKED:
        return packed_divergences(backbone, prompts, reference, rows, fused=path == "fused")
    return plain_divergences(backbone, prompts, reference, rows, None if path == SINGLE else path)


def divergence_gradients(
    backbone: Backbone, path: str, prompts: Tensor, rows: Sequence[Row], reference: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the rows' divergences `[rows]`, and their weighted sum's gradient, shaped as the prompts."""
    leaf = prompts.detach().requires_grad_()
    return _differentiated(divergences(backbone, path, leaf, reference, rows), weights, leaf)


def score(backbone: Backbone, path: str, prompts: Tensor, rows: Sequence[Row]) -> tuple[Tensor]:
    """Return the rows' losses without gradient."""
    with torch.no_grad():
        return (losses(backbone, path, prompts, rows),)


def answer(
    backbone: Backbone, path: str, prompts: Tensor, rows: Sequence[Row], most: int, budget: int
) -> tuple[Tensor, list[list[int]]]:
    """Return the rows' losses, and at most `most` greedy tokens after each row's source."""
    if path in PACKED:
        return packed_generate(backbone, prompts, rows, most, budget, fused=path == "fused")
    (found,) = score(backbone, path, prompts, rows)
    if path == SINGLE:
        return found, single_generate(backbone, prompts, rows, most)
    return found, plain_generate(backbone, prompts, rows, most, path)


def mixture(
    backbone: Backbone,
    path: str,
    prompts: Tensor,
    rows: Sequence[Row],
    weights: Sequence[float],
    most: int,
    budget: int,
) -> tuple[Tensor, list[list[int]]]:
    """Return the rows' losses under ensembles, and at most `most` greedy tokens after each row's source.

    Args as of `packed_mixture`: the prompts are `[owners, members, length, width]`.
    """
    with torch.no_grad():
        if path in PACKED:
            return packed_mixture(backbone, prompts, rows, weights, most, budget, fused=path == "fused")
        _use_own_attention(backbone, path)
        return single_mixture(backbone, prompts, rows, weights, most)


def states(backbone: Backbone, path: str, _: Tensor, rows: Sequence[Row], depth: int) -> tuple[Tensor]:
    """Return the rows' mean hidden states over their sources, `[rows, width]`, read without a prompt."""
    with torch.no_grad():
        if path in PACKED:
            return (packed_states(backbone, rows, depth),)
        _use_own_attention(backbone, path)
        return (single_states(backbone, rows, depth),)


def _use_own_attention(backbone: Backbone, path: str) -> None:
    wanted = backbone.attention if path == SINGLE else path
    if backbone.model.config._attn_implementation != wanted:
        backbone.model.set_attn_implementation(wanted)
