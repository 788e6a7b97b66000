"""Matrix products of bfloat16 numbers, also on processors without bfloat16 arithmetic.

A processor with bfloat16 arithmetic accumulates in float32 and rounds the sum. On others, torch's kernels
emulate this at a third of the speed of float32 (docs/benchmarks). There, this module converts the numbers to
float32 (exactly), multiplies in float32, and rounds the result. Only the order of the additions differs.
Weights are converted once and cached: 4 bytes a number in addition to their 2.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.weak import WeakIdKeyDictionary

from fedprofit.backbone.device import computes_bfloat16

_float32: WeakIdKeyDictionary = WeakIdKeyDictionary()  # weight: its float32 copy


def widens(x: Tensor) -> bool:
    """Return whether products of `x` are computed in float32 and then rounded."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and not computes_bfloat16(x.device)


def product(first: Tensor, second: Tensor) -> Tensor:
    """Return `first @ second` of batches of matrices, in their dtype; not differentiable.

    >>> product(torch.eye(2), torch.ones(2, 3)).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    if not widens(first):
        return first @ second
    return (first.float() @ second.float()).to(first.dtype)


def add_product(to: Tensor, first: Tensor, second: Tensor) -> None:
    """Add `first @ second` to the batch of matrices `to` in place; round once."""
    if widens(to):
        to.copy_(torch.baddbmm(to.float(), first.float(), second.float()))
    else:
        to.baddbmm_(first, second)


def projected(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `x @ weight.T + bias` in the dtype of `x`: `[n, in]` to `[n, out]`, differentiable in `x`.

    weight `[out, in]` is frozen; a float32 copy of it may be cached during its lifetime.
    """
    if not widens(x):
        return linear(x, weight, bias)
    return linear(x.float(), widened(weight), None if bias is None else bias.float()).to(x.dtype)


def widened(weight: Tensor) -> Tensor:
    """Return the cached float32 copy of a frozen weight if products need it, else the weight."""
    if not widens(weight):
        return weight
    if weight not in _float32:
        _float32[weight] = weight.detach().float()
    copy: Tensor = _float32[weight]
    return copy
