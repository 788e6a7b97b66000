"""Compiled CPU kernels for the operations of a decoder layer between its matrix products.

In torch, these operations take about thirty kernels, each a pass over memory. torch's bfloat16 kernels are
also slow on a CPU: they emulate the rounding of every intermediate value. Here a norm, a rotary embedding, a
gate or a softmax is one loop that reads its input once, computes in float32, and rounds once. numba compiles
each kernel at its first call and caches the code on disk (`code_cache.py`).

Each kernel supports float32 and bfloat16: `load` reads a stored number as float32, `store` rounds a float32.
bfloat16 is the upper half of a float32; arrays of it are passed as unsigned 16-bit integers.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numba.extending import overload
from torch import Tensor

from fedprofit.backbone.code_cache import cached

# Reordered sums allow vectorization. NaN and infinity are preserved, so that a NaN loss is detected.
FAST = {"reassoc", "contract", "arcp", "nsz", "afn"}

ONE, HALF, LOG2E, LN2 = (np.float32(x) for x in (1.0, 0.5, 1.4426950408889634, 0.6931471805599453))
LOWEST, HIGHEST = np.float32(-87.0), np.float32(88.0)  # range in which exp(x) is a normal float32
TAYLOR = tuple(np.float32(1 / x) for x in (720, 120, 24, 6, 2, 1, 1))


def load(x: Any) -> Any:
    """Return a stored number as float32."""
    raise NotImplementedError("compiled only")


def store(x: Any, to: Any) -> Any:
    """Return a float32 in the storage type of the array `to`."""
    raise NotImplementedError("compiled only")


@overload(load)
def _load(x):  # type: ignore[no-untyped-def]
    if x == numba.float32:
        return lambda x: x
    return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)


@overload(store)
def _store(x, to):  # type: ignore[no-untyped-def]
    if to.dtype == numba.float32:
        return lambda x, to: np.float32(x)

    def to_nearest_even(x, to):  # type: ignore[no-untyped-def]
        bits = np.float32(x).view(np.uint32)
        odd = (bits >> np.uint32(16)) & np.uint32(1)
        return np.uint16((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))

    return to_nearest_even


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a kernel at its first call, and cache its code on disk."""
    return cached(numba.njit(fastmath=FAST, error_model="numpy")(function))


# Functions that a kernel calls are inlined. If compiled separately, the compiling process would call them
# directly, but a later process would load a copy that was optimized again: the last bits would differ.
inlined: Callable[..., Any] = numba.njit(inline="always")


@inlined
def _exp(x: Any) -> Any:
    """Return exp(x) as a power of two times a Taylor series; the error is 2 units in the last place."""
    # Comparisons preserve NaN; min and max do not.
    if x < LOWEST:
        x = LOWEST
    if x > HIGHEST:
        x = HIGHEST
    exponent = np.floor(x * LOG2E + HALF)
    rest = x - exponent * LN2
    power = TAYLOR[0]
    power = power * rest + TAYLOR[1]
    power = power * rest + TAYLOR[2]
    power = power * rest + TAYLOR[3]
    power = power * rest + TAYLOR[4]
    power = power * rest + TAYLOR[5]
    power = power * rest + TAYLOR[6]
    return power * np.int32((np.int32(exponent) + np.int32(127)) << np.int32(23)).view(np.float32)


@compiled
def norm(x: Any, weight: Any, eps: Any, y: Any, scale: Any) -> None:
    """Write the RMS norm of each row of `x` to `y`, and 1 / RMS of the row to `scale`."""
    for t in range(x.shape[0]):
        total = np.float32(0)
        for j in range(x.shape[1]):
            total += load(x[t, j]) * load(x[t, j])
        s = ONE / np.sqrt(total / np.float32(x.shape[1]) + eps)
        scale[t] = s
        for j in range(x.shape[1]):
            y[t, j] = store(load(x[t, j]) * s * load(weight[j]), y)


@compiled
def norm_backward(dpast: Any, dy: Any, x: Any, weight: Any, scale: Any, dx: Any) -> None:
    """Write the sum of the residual gradient `dpast` and the gradient of the norm for `dy` to `dx`."""
    for t in range(x.shape[0]):
        s, dot = scale[t], np.float32(0)
        for j in range(x.shape[1]):
            dot += load(dy[t, j]) * load(weight[j]) * load(x[t, j])
        along = dot * s * s * s / np.float32(x.shape[1])
        for j in range(x.shape[1]):
            own = s * load(dy[t, j]) * load(weight[j]) - along * load(x[t, j])
            dx[t, j] = store(load(dpast[t, j]) + own, dx)


@compiled
def gate(x: Any, y: Any) -> None:
    """Write SiLU of the first half of each row, times the second half, to `y`."""
    half = y.shape[1]
    for t in range(y.shape[0]):
        for j in range(half):
            a = load(x[t, j])
            y[t, j] = store(a / (ONE + _exp(-a)) * load(x[t, half + j]), y)


@inlined
def _gate_row_backward(dy: Any, a: Any, b: Any, da: Any, db: Any) -> None:
    """Write the gradients of the halves `a` and `b`; separate arguments tell the compiler: no aliasing."""
    for j in range(len(dy)):
        x = load(a[j])
        sigma = ONE / (ONE + _exp(-x))
        da[j] = store(load(dy[j]) * load(b[j]) * sigma * (ONE + x * (ONE - sigma)), da)
        db[j] = store(load(dy[j]) * x * sigma, db)


@compiled
def gate_backward(dy: Any, x: Any, dx: Any) -> None:
    """Write the gradient of `gate` to `dx`."""
    half = dy.shape[1]
    for t in range(dy.shape[0]):
        _gate_row_backward(dy[t], x[t][:half], x[t][half:], dx[t][:half], dx[t][half:])


@compiled
def rotate(x: Any, first: Any, heads: Any, total: Any, cos: Any, sin: Any, scale: Any, y: Any) -> None:
    """Write the scaled rotary embedding of heads `[tokens * heads, size]` to `y`.

    A token has `total` heads in `x`; the rotated ones start at head `first`.
    """
    h = y.shape[1] // 2
    for t in range(cos.shape[0]):
        for head in range(heads):
            i, o = t * total + first + head, t * heads + head
            for j in range(h):
                rotated = load(x[i, j]) * load(cos[t, j]) - load(x[i, h + j]) * load(sin[t, j])
                y[o, j] = store(scale * rotated, y)
            for j in range(h):
                rotated = load(x[i, h + j]) * load(cos[t, h + j]) + load(x[i, j]) * load(sin[t, h + j])
                y[o, h + j] = store(scale * rotated, y)


@compiled
def rotate_backward(
    dy: Any, first: Any, heads: Any, total: Any, cos: Any, sin: Any, scale: Any, dx: Any
) -> None:
    """Write the gradient of `rotate` to `dx`."""
    h = dy.shape[1] // 2
    for t in range(cos.shape[0]):
        for head in range(heads):
            i, o = t * total + first + head, t * heads + head
            for j in range(h):
                back = load(dy[o, j]) * load(cos[t, j]) + load(dy[o, h + j]) * load(sin[t, h + j])
                dx[i, j] = store(scale * back, dx)
            for j in range(h):
                back = load(dy[o, h + j]) * load(cos[t, h + j]) - load(dy[o, j]) * load(sin[t, j])
                dx[i, h + j] = store(scale * back, dx)


@inlined
def _largest(bits: Any, count: Any) -> Any:
    """Return the largest of the first `count` float32 numbers, given as bits; NaN exceeds infinity.

    They are compared as integers in the same order, because the compiler vectorizes that.
    """
    top = np.int32(-(2**31))
    for j in range(count):
        top = max(top, np.int32(bits[j] ^ ((bits[j] >> np.int32(31)) & np.int32(0x7FFFFFFF))))
    return np.int32(top ^ ((top >> np.int32(31)) & np.int32(0x7FFFFFFF))).view(np.float32)


@compiled
def softmax(before: Any, own: Any, seen: Any, shared: Any) -> None:
    """Compute the softmax over the scores of prefix keys (`before`) and of a row's keys (`own`), in place.

    Row a sees the first `seen[a]` prefix keys. Query q belongs to token q // shared of the row and sees no
    later token. Masked keys get weight 0.
    """
    both = np.empty(before.shape[2] + own.shape[2], np.float32)
    bits = both.view(np.int32)
    for a in range(own.shape[0]):
        for q in range(own.shape[1]):
            first = seen[a]
            count = first + q // shared + 1
            for j in range(first):
                both[j] = load(before[a, q, j])
            for j in range(count - first):
                both[first + j] = load(own[a, q, j])
            top, total = _largest(bits, count), np.float32(0)
            for j in range(count):
                both[j] = _exp(both[j] - top)
                total += both[j]
            part = ONE / total
            for j in range(first):
                before[a, q, j] = store(both[j] * part, before)
            before[a, q, first:] = 0
            for j in range(count - first):
                own[a, q, j] = store(both[first + j] * part, own)
            own[a, q, count - first :] = 0


@compiled
def softmax_backward(before: Any, own: Any, d_before: Any, d_own: Any, seen: Any, shared: Any) -> None:
    """Replace the gradients of the weights, `d_before` and `d_own`, by those of the scores, in place."""
    for a in range(own.shape[0]):
        for q in range(own.shape[1]):
            first, count, dot = seen[a], q // shared + 1, np.float32(0)
            for j in range(first):
                dot += load(before[a, q, j]) * load(d_before[a, q, j])
            for j in range(count):
                dot += load(own[a, q, j]) * load(d_own[a, q, j])
            for j in range(first):
                d_before[a, q, j] = store(load(before[a, q, j]) * (load(d_before[a, q, j]) - dot), d_before)
            d_before[a, q, first:] = 0
            for j in range(count):
                d_own[a, q, j] = store(load(own[a, q, j]) * (load(d_own[a, q, j]) - dot), d_own)
            d_own[a, q, count:] = 0


@compiled
def cross_entropy(logits: Any, labels: Any, losses: Any, differentiate: Any) -> None:
    """Write the labels' negative log-likelihoods to `losses`; optionally replace logits by gradients."""
    row = np.empty(logits.shape[1], np.float32)
    bits = row.view(np.int32)
    for t in range(logits.shape[0]):
        for j in range(len(row)):
            row[j] = load(logits[t, j])
        top, total = _largest(bits, len(row)), np.float32(0)
        aim = row[labels[t]] - top
        for j in range(len(row)):
            row[j] = _exp(row[j] - top)
            total += row[j]
        losses[t] = np.log(total) - aim
        if differentiate:
            part = ONE / total
            for j in range(len(row)):
                logits[t, j] = store(row[j] * part, logits)
            logits[t, labels[t]] = store(row[labels[t]] * part - ONE, logits)


def array(tensor: Tensor) -> Any:
    """Return a tensor as the array that kernels take: a view, or a copy if it is not contiguous."""
    tensor = tensor.detach().contiguous()
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
