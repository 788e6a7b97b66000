"""KL divergences of many clients' predictions from those under reference prompts, for each path.

At each target position both distributions are over the vocabulary: p under the reference prompt, q under the
current one. The divergence KL(p || q) = sum p (log p - log q) is differentiated by the current prompt only.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from fedprofit.backbone.forward import (
    Predictions,
    Row,
    as_given,
    pack,
    plain_target_logits,
    predict,
    predicted_at,
    single_target_logits,
)
from fedprofit.backbone.load import Backbone
from fedprofit.backbone.products import projected, widened

AT_ONCE = 256  # positions whose distributions are in memory at once


def packed_divergences(
    backbone: Backbone, prompts: Tensor, reference: Tensor, rows: Sequence[Row], fused: bool = False
) -> Tensor:
    """Sum each row's divergence over its target positions, differentiably by `prompts`.

    Args:
        backbone: the frozen model.
        prompts: soft prompts, `[clients, length, width]`.
        reference: the reference prompts, `[clients, any length, width]`.
        rows: the examples, each with its client.
        fused: whether prepared layers use their fused forward (see `fused.py`).

    Returns:
        `[rows]`, in nats, float32, in the order given.
    """
    with torch.no_grad():
        before, _ = _predicted(backbone, reference, rows, fused)
    now, order = _predicted(backbone, prompts, rows, fused)
    by_position: Tensor = _Divergence.apply(now.values, before.values, now.head)[: now.count]  # type: ignore[no-untyped-call]
    return as_given(order, _by_row(by_position, [rows[number] for number in order]))


def plain_divergences(
    backbone: Backbone, prompts: Tensor, reference: Tensor, rows: Sequence[Row], attention: str | None = None
) -> Tensor:
    """Compute `packed_divergences` with the plain model and autograd.

    `attention` is that of padded batches; without it, rows are read one at a time.
    """

    def logs(given: Tensor) -> Tensor:
        if attention is None:
            logits = single_target_logits(backbone, given, rows)
        else:
            logits = plain_target_logits(backbone, given, rows, attention)
        return torch.log_softmax(logits, dim=-1)

    with torch.no_grad():
        before = logs(reference)
    terms = torch.nn.functional.kl_div(logs(prompts), before, reduction="none", log_target=True)
    return _by_row(terms.sum(1), rows)


def _predicted(
    backbone: Backbone, prompts: Tensor, rows: Sequence[Row], fused: bool
) -> tuple[Predictions, list[int]]:
    """Return the predictions at the target positions, and the order of their rows.

    The order depends on the rows only, so that current and reference predictions correspond.
    """
    packed = pack(rows, prompts.shape[1], backbone.device, fused=fused)
    at = predicted_at(packed, rows).to(backbone.device)
    return predict(backbone, prompts, packed, at), packed.order


def _by_row(values: Tensor, rows: Sequence[Row]) -> Tensor:
    parts = torch.split(values, [len(row.example.target) for row in rows])
    return torch.stack([part.sum() for part in parts])


class _Divergence(Function):
    """KL(reference || current) at each position, from logits or from what the head reads.

    The gradient by the logits is q - p. It is computed part by part, so that with a head only gradients of
    the head's width are stored.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, before: Tensor, head: Tensor | None) -> Tensor:
        found = torch.empty(len(values), device=values.device)
        slopes = torch.empty_like(values)
        for start in range(0, len(values), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            now, then = (
                torch.log_softmax((x[part] if head is None else projected(x[part], head)).float(), dim=-1)
                for x in (values, before)
            )
            chance = then.exp()
            found[part] = torch.where(chance > 0, chance * (then - now), 0.0).sum(1)
            slope = now.exp_().sub_(chance)
            if head is not None:
                slope = slope.to(widened(head).dtype) @ widened(head)
            slopes[part] = slope.to(values.dtype)
        ctx.save_for_backward(slopes)
        return found

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return (given[:, None] * slopes).to(slopes.dtype), None, None
