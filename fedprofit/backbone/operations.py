"""Differentiable operations of decoder layers, packed attention and the head, on `kernels.py`'s loops."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from fedprofit.backbone import kernels
from fedprofit.backbone.kernels import array
from fedprofit.backbone.products import add_product, product, widened

# Rows whose logits are held at a time. Fewer are slower; twice as many little faster, in twice the memory
# (docs/benchmarks).
AT_ONCE = 256


def normed(hidden: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return `hidden [tokens, width]` as it is, to go on, and its RMS norm.

    Both at once, so that their gradients are added where the norm's is computed.
    """
    past, read = _Normed.apply(hidden, weight, np.float32(epsilon))  # type: ignore[no-untyped-call]
    return past, read


def rotated(qkv: Tensor, cos: Tensor, sin: Tensor, scale: float, kv: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split `qkv [tokens, (heads + 2 kv) * size]` into queries, scaled, keys and values, rotated by position.

    The rotation is Su et al. 2021, RoFormer, equation 34, with cos and sin `[tokens, size]`, halves apart.
    """
    query, key, value = _Rotated.apply(qkv, cos, sin, np.float32(scale), kv)  # type: ignore[no-untyped-call]
    return query, key, value


def gated(both: Tensor) -> Tensor:
    """Return SiLU of the first half times the second: `[tokens, 2 * inner]` to `[tokens, inner]`."""
    inner: Tensor = _Gated.apply(both)  # type: ignore[no-untyped-call]
    return inner


def attended(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor, key_before: Tensor, value_before: Tensor
) -> Tensor:
    """Causal attention of rows to themselves and to what comes before them.

    Args:
        query: `[rows, tokens * shared, size]`, scaled; `shared` query heads of a token beside each other.
        key, value: `[rows, tokens, size]`.
        seen: `[rows]`, how many keys before them the rows see.
        key_before, value_before: `[groups, P, size]`, each before `rows / groups` rows that follow.
    """
    mixed: Tensor = _Attended.apply(query, key, value, seen, key_before, value_before)  # type: ignore[no-untyped-call]
    return mixed


def label_losses(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Return the negative log-likelihood of labels `[n]`, int64, under the logits `hidden @ head.T`, float32.

    hidden is `[n, width]`, head `[vocabulary, width]`. The logits are never held as a whole: the gradient by
    the hidden states is taken while a part of them is at hand, and only it is kept.
    """
    losses: Tensor = _LabelLosses.apply(hidden, head, labels)  # type: ignore[no-untyped-call]
    return losses


class _Normed(Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, epsilon: np.float32) -> tuple[Tensor, Tensor]:
        read, scale = torch.empty_like(hidden), torch.empty(len(hidden))
        kernels.norm(array(hidden), array(weight), epsilon, array(read), array(scale))
        ctx.save_for_backward(hidden, weight, scale)
        return hidden.view_as(hidden), read

    @staticmethod
    def backward(ctx: Any, past: Tensor, read: Tensor) -> tuple[Tensor, None, None]:
        hidden, weight, scale = ctx.saved_tensors
        gradient = torch.empty_like(hidden)
        saved = (array(hidden), array(weight), array(scale))
        kernels.norm_back(array(past), array(read), *saved, array(gradient))
        return gradient, None, None


class _Rotated(Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, scale: np.float32, kv: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.scale, ctx.kv = scale, kv
        tokens, size = cos.shape
        total = qkv.shape[1] // size
        heads = qkv.view(-1, size)
        query, key = (qkv.new_empty(tokens * count, size) for count in (total - 2 * kv, kv))
        for first, count, factor, turned in _parts(total, kv, scale, query, key):
            kernels.turn(array(heads), first, count, total, array(cos), array(sin), factor, array(turned))
        value = qkv[:, -kv * size :].contiguous()
        return query.view(tokens, -1, size), key.view(tokens, kv, size), value.view(tokens, kv, size)

    @staticmethod
    def backward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        tokens, size = cos.shape
        total = query.shape[1] + 2 * ctx.kv
        gradient = query.new_empty(tokens * total, size)
        flat = (query.reshape(-1, size), key.reshape(-1, size))
        for first, count, factor, turned in _parts(total, ctx.kv, ctx.scale, *flat):
            back = (array(turned), first, count, total, array(cos), array(sin), factor)
            kernels.turn_back(*back, array(gradient))
        gradient = gradient.view(tokens, total * size)
        gradient[:, -ctx.kv * size :] = value.reshape(tokens, -1)
        return gradient, None, None, None, None


def _parts(
    total: int, kv: int, scale: np.float32, query: Tensor, key: Tensor
) -> list[tuple[int, int, np.float32, Tensor]]:
    """Return first head, number of heads and scale of queries and keys, with the tensor for each."""
    return [(0, total - 2 * kv, scale, query), (total - 2 * kv, kv, np.float32(1), key)]


class _Gated(Function):
    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        ctx.save_for_backward(both)
        inner = both.new_empty(len(both), both.shape[1] // 2)
        kernels.gate(array(both), array(inner))
        return inner

    @staticmethod
    def backward(ctx: Any, inner: Tensor) -> Tensor:
        (both,) = ctx.saved_tensors
        gradient = torch.empty_like(both)
        kernels.gate_back(array(inner), array(both), array(gradient))
        return gradient


@lru_cache(maxsize=1)
def _room(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Keep one block of memory to write in: to get it anew takes longer than to fill it."""
    return torch.empty(rows, columns, dtype=dtype)


class _LabelLosses(Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        differentiate = ctx.needs_input_grad[0]
        losses, slopes = torch.empty(len(hidden)), torch.empty_like(hidden)
        head = widened(head)
        logits = _room(AT_ONCE, len(head), head.dtype)
        for start in range(0, len(hidden), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            some = torch.mm(hidden[part].to(head.dtype), head.T, out=logits[: len(hidden) - start])
            some = some.to(hidden.dtype)
            kernels.cross_entropy(array(some), array(labels[part]), array(losses[part]), differentiate)
            if differentiate:
                slopes[part] = some.to(head.dtype) @ head
        ctx.save_for_backward(slopes)
        return losses

    @staticmethod
    def backward(ctx: Any, losses: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return (losses[:, None] * slopes).to(slopes.dtype), None, None


def _shared(query: Tensor, key: Tensor) -> int:
    return query.shape[1] // max(1, key.shape[1])  # a prefix may be empty


class _Attended(Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, seen: Tensor, k_before: Tensor, v_before: Tensor
    ) -> Tensor:
        rows, queries, size = query.shape
        together, before = _together(query, k_before)
        to_own, to_before = product(query, key.transpose(1, 2)), query.new_empty(rows, queries, before)
        if before:
            asked = query.view(*together, size)
            to_before = product(asked, k_before.transpose(1, 2)).view(rows, queries, before)
        kernels.softmax(array(to_before), array(to_own), array(seen), _shared(query, key))
        ctx.save_for_backward(query, key, value, seen, k_before, v_before, to_before, to_own)
        mixed = product(to_own, value)
        if before:
            add_product(mixed.view(*together, size), to_before.view(*together, before), v_before)
        return mixed

    @staticmethod
    def backward(ctx: Any, mixed: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, seen, k_before, v_before, to_before, to_own = ctx.saved_tensors
        rows, queries, size = query.shape
        together, before = _together(query, k_before)
        mixed = mixed.contiguous()
        d_own, d_before = product(mixed, value.transpose(1, 2)), torch.empty_like(to_before)
        if before:
            d_before = product(mixed.view(*together, size), v_before.transpose(1, 2)).view(
                rows, queries, before
            )
        weights = (array(to_before), array(to_own))
        kernels.softmax_back(*weights, array(d_before), array(d_own), array(seen), _shared(query, key))
        d_query, d_key = product(d_own, key), product(d_own.transpose(1, 2), query)
        d_value = product(to_own.transpose(1, 2), mixed)
        if not before:
            return d_query, d_key, d_value, None, None, None
        d_before = d_before.view(*together, before)
        add_product(d_query.view(*together, size), d_before, k_before)
        d_k_before = product(d_before.transpose(1, 2), query.view(*together, size))
        d_v_before = product(to_before.view(*together, before).transpose(1, 2), mixed.view(*together, size))
        return d_query, d_key, d_value, None, d_k_before, d_v_before


def _together(query: Tensor, before: Tensor) -> tuple[tuple[int, int], int]:
    """Return the shape in which the rows behind one past ask it together, and how long that past is."""
    rows, queries = query.shape[:2]
    return (len(before), rows * queries // len(before)), before.shape[1]
