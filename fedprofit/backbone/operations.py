"""Differentiable operations of decoder layers, packed attention and the head, built on `kernels.py`."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from fedprofit.backbone import kernels
from fedprofit.backbone.kernels import array
from fedprofit.backbone.products import add_product, product, widened

# Rows whose logits are in memory at the same time. Fewer rows are slower; twice as many are little faster but
# need twice the memory (docs/benchmarks).
AT_ONCE = 256


def normed(hidden: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return `hidden [tokens, width]` unchanged, for the residual connection, and its RMS norm.

    One function returns both, so that its backward pass adds the two gradients.
    """
    residual, norm = _Normed.apply(hidden, weight, np.float32(epsilon))  # type: ignore[no-untyped-call]
    return residual, norm


def rotated(qkv: Tensor, cos: Tensor, sin: Tensor, scale: float, kv: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split `qkv [tokens, (heads + 2 kv) * size]` into scaled rotated queries, rotated keys, and values.

    The rotation is Su et al. 2021, RoFormer, equation 34, with cos and sin `[tokens, size]`. The two numbers
    of a pair are `size / 2` apart.
    """
    query, key, value = _Rotated.apply(qkv, cos, sin, np.float32(scale), kv)  # type: ignore[no-untyped-call]
    return query, key, value


def gated(both: Tensor) -> Tensor:
    """Return SiLU of the first half times the second half: `[tokens, 2 * inner]` to `[tokens, inner]`."""
    inner: Tensor = _Gated.apply(both)  # type: ignore[no-untyped-call]
    return inner


def attended(
    query: Tensor, key: Tensor, value: Tensor, seen: Tensor, key_before: Tensor, value_before: Tensor
) -> Tensor:
    """Compute causal attention of rows to themselves and to the prefix before them.

    Args:
        query: `[rows, tokens * shared, size]`, scaled. The `shared` query heads of a token are adjacent.
        key, value: `[rows, tokens, size]`.
        seen: `[rows]`, the number of prefix keys that each row sees.
        key_before, value_before: `[groups, P, size]`, the prefix of each group of `rows / groups` rows.
    """
    inputs = (query, key, value, seen, key_before, value_before)
    output: Tensor = _Attended.apply(*inputs)  # type: ignore[no-untyped-call]
    return output


def label_losses(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Return the negative log-likelihood of labels `[n]`, int64, under the logits `hidden @ head.T`, float32.

    hidden is `[n, width]`, head `[vocabulary, width]`. The logits are computed in parts of `AT_ONCE` rows.
    The gradient with respect to `hidden` is computed from each part before the part is discarded.
    """
    losses: Tensor = _LabelLosses.apply(hidden, head, labels)  # type: ignore[no-untyped-call]
    return losses


def label_losses_and_best(hidden: Tensor, head: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `label_losses` does, without gradient, and the label with the largest logit, `[n]`, int64.

    Both come from the same logits, so that the vocabulary is multiplied once.
    """
    losses, best = torch.empty(len(hidden)), torch.empty(len(hidden), dtype=torch.long)
    for part, logits in _logits(hidden, widened(head)):
        best[part] = logits.max(-1).indices  # faster than argmax in bfloat16
        kernels.cross_entropy(array(logits), array(labels[part]), array(losses[part]), False)
    return losses, best


class _Normed(Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, epsilon: np.float32) -> tuple[Tensor, Tensor]:
        norm, scale = torch.empty_like(hidden), torch.empty(len(hidden))
        kernels.norm(array(hidden), array(weight), epsilon, array(norm), array(scale))
        ctx.save_for_backward(hidden, weight, scale)
        return hidden.view_as(hidden), norm

    @staticmethod
    def backward(ctx: Any, d_residual: Tensor, d_norm: Tensor) -> tuple[Tensor, None, None]:
        hidden, weight, scale = ctx.saved_tensors
        gradient = torch.empty_like(hidden)
        saved = (array(hidden), array(weight), array(scale))
        kernels.norm_backward(array(d_residual), array(d_norm), *saved, array(gradient))
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
        for first, count, factor, part in _parts(total, kv, scale, query, key):
            kernels.rotate(array(heads), first, count, total, array(cos), array(sin), factor, array(part))
        value = qkv[:, -kv * size :].contiguous()
        return query.view(tokens, -1, size), key.view(tokens, kv, size), value.view(tokens, kv, size)

    @staticmethod
    def backward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        tokens, size = cos.shape
        total = query.shape[1] + 2 * ctx.kv
        gradient = query.new_empty(tokens * total, size)
        flat = (query.reshape(-1, size), key.reshape(-1, size))
        for first, count, factor, part in _parts(total, ctx.kv, ctx.scale, *flat):
            given = (array(part), first, count, total, array(cos), array(sin), factor)
            kernels.rotate_backward(*given, array(gradient))
        gradient = gradient.view(tokens, total * size)
        gradient[:, -ctx.kv * size :] = value.reshape(tokens, -1)
        return gradient, None, None, None, None


def _parts(
    total: int, kv: int, scale: np.float32, query: Tensor, key: Tensor
) -> list[tuple[int, int, np.float32, Tensor]]:
    """Return first head, number of heads, scale and tensor for the queries and for the keys."""
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
        kernels.gate_backward(array(inner), array(both), array(gradient))
        return gradient


@lru_cache(maxsize=1)
def _buffer(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Return a reused block of memory: its allocation takes longer than filling it."""
    return torch.empty(rows, columns, dtype=dtype)


def _logits(hidden: Tensor, head: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield the logits `hidden @ head.T` in parts of `AT_ONCE` rows; each part overwrites the one before."""
    buffer = _buffer(AT_ONCE, len(head), head.dtype)
    for start in range(0, len(hidden), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        logits = torch.mm(hidden[part].to(head.dtype), head.T, out=buffer[: len(hidden) - start])
        yield part, logits.to(hidden.dtype)


class _LabelLosses(Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        differentiate = ctx.needs_input_grad[0]
        losses, gradients = torch.empty(len(hidden)), torch.empty_like(hidden)
        head = widened(head)
        for part, logits in _logits(hidden, head):
            kernels.cross_entropy(array(logits), array(labels[part]), array(losses[part]), differentiate)
            if differentiate:
                gradients[part] = logits.to(head.dtype) @ head
        ctx.save_for_backward(gradients)
        return losses

    @staticmethod
    def backward(ctx: Any, d_losses: Tensor) -> tuple[Tensor, None, None]:
        (gradients,) = ctx.saved_tensors
        return (d_losses[:, None] * gradients).to(gradients.dtype), None, None


def _shared(query: Tensor, key: Tensor) -> int:
    return query.shape[1] // max(1, key.shape[1])  # a prefix may be empty


class _Attended(Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, seen: Tensor, k_before: Tensor, v_before: Tensor
    ) -> Tensor:
        rows, queries, size = query.shape
        grouped, before = _grouped(query, k_before)
        to_own, to_before = product(query, key.transpose(1, 2)), query.new_empty(rows, queries, before)
        if before:
            q = query.view(*grouped, size)
            to_before = product(q, k_before.transpose(1, 2)).view(rows, queries, before)
        kernels.softmax(array(to_before), array(to_own), array(seen), _shared(query, key))
        ctx.save_for_backward(query, key, value, seen, k_before, v_before, to_before, to_own)
        output = product(to_own, value)
        if before:
            add_product(output.view(*grouped, size), to_before.view(*grouped, before), v_before)
        return output

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, seen, k_before, v_before, to_before, to_own = ctx.saved_tensors
        rows, queries, size = query.shape
        grouped, before = _grouped(query, k_before)
        d_output = d_output.contiguous()
        d_own, d_before = product(d_output, value.transpose(1, 2)), torch.empty_like(to_before)
        if before:
            d_before = product(d_output.view(*grouped, size), v_before.transpose(1, 2)).view(
                rows, queries, before
            )
        weights = (array(to_before), array(to_own))
        kernels.softmax_backward(*weights, array(d_before), array(d_own), array(seen), _shared(query, key))
        d_query, d_key = product(d_own, key), product(d_own.transpose(1, 2), query)
        d_value = product(to_own.transpose(1, 2), d_output)
        if not before:
            return d_query, d_key, d_value, None, None, None
        d_before = d_before.view(*grouped, before)
        add_product(d_query.view(*grouped, size), d_before, k_before)
        d_k_before = product(d_before.transpose(1, 2), query.view(*grouped, size))
        d_v_before = product(to_before.view(*grouped, before).transpose(1, 2), d_output.view(*grouped, size))
        return d_query, d_key, d_value, None, d_k_before, d_v_before


def _grouped(query: Tensor, before: Tensor) -> tuple[tuple[int, int], int]:
    """Return `(groups, queries per group)`, to multiply all rows of a group at once, and P."""
    rows, queries = query.shape[:2]
    return (len(before), rows * queries // len(before)), before.shape[1]
