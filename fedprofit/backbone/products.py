"""Matrix products of bfloat16 numbers, also where the processor has no arithmetic for them.

A processor that multiplies bfloat16 adds up in float32 and rounds the sum. One that does not emulates it in
torch's kernels, at a third of the speed of its float32 (docs/benchmarks). There the same is computed here:
the numbers widened, which loses nothing, multiplied in float32, and the result rounded. Only the order of
the additions differs. Weights are widened once and kept, at 4 bytes a number beside their 2.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.weak import WeakIdKeyDictionary

from fedprofit.backbone.load import computes_bfloat16

_wide: WeakIdKeyDictionary = WeakIdKeyDictionary()  # weight: the same in float32


def widens(x: Tensor) -> bool:
    """Tell whether products of `x` are to be computed in float32 and rounded."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and not computes_bfloat16(x.device)


def product(first: Tensor, second: Tensor) -> Tensor:
    """Return `first @ second`, of batches of matrices, in their type; not for autograd.

    >>> product(torch.eye(2), torch.ones(2, 3)).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    if not widens(first):
        return first @ second
    return (first.float() @ second.float()).to(first.dtype)


def add_product(to: Tensor, first: Tensor, second: Tensor) -> None:
    """Add `first @ second` to the batch of matrices `to`, rounded once."""
    if widens(to):
        to.copy_(torch.baddbmm(to.float(), first.float(), second.float()))
    else:
        to.baddbmm_(first, second)


def projected(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `x @ weight.T + bias` in the type of `x`: `[n, in]` to `[n, out]`, differentiable by `x`.

    weight is frozen: it is `[out, in]` and may be kept in float32 for as long as it lives.
    """
    if not widens(x):
        return linear(x, weight, bias)
    return linear(x.float(), widened(weight), None if bias is None else bias.float()).to(x.dtype)


def widened(weight: Tensor) -> Tensor:
    """Return a frozen weight as it is multiplied: in float32 where products are computed so."""
    if not widens(weight):
        return weight
    if weight not in _wide:
        _wide[weight] = weight.detach().float()
    kept: Tensor = _wide[weight]
    return kept
