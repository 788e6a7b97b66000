"""Packing: all tokens of all clients in one flat row, attention apart by client.

The rows of a client share what comes first: its soft prompt and, task by task, the definition. Such a
shared prefix and the rows behind it are a *segment*. A packed batch lays its segments one after the
other in one row of T tokens:

    [prompt definition | row | row | row][prompt definition | row | row] ...

Linear layers and norms of any model act token by token and need not know. Only attention must:
`packed_attention` is registered with transformers as an attention implementation and is handed the
layout through the model's keyword arguments. A prefix attends causally to itself; a row attends to its
prefix and causally to itself. Segments of similar shape are padded to each other, in attention alone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from fedprofit.backbone.segments import (
    FLAT,
    Group,
    Places,
    Rule,
    Segment,
    make_group,
    make_places,
    rounded,
    similar,
)

NAME = "fedprofit_packed"


class Layout:
    """The segments of one packed batch, and, where asked for, the keys and values seen."""

    def __init__(
        self, segments: Sequence[Segment], device: torch.device, capture: bool = False, fused: bool = False
    ) -> None:
        """Lay the segments out in groups of similar shape."""
        self.segments = tuple(segments)
        self.fused = fused  # whether layers that can be fused are computed so (see `fused.py`)
        self.groups = [make_group(members, device) for members in similar(segments)]
        self.length = rounded(segments[-1].stop, FLAT)
        # Flat positions whose last hidden state alone is read. A last layer that keeps to them clears it.
        self.read_at: Tensor | None = None
        self.captured: list[tuple[Tensor, Tensor]] | None = [] if capture else None
        self._places: dict[int, Places] = {}

    def places(self, kv: int) -> Places:
        """Return where the tokens' heads lie, for `kv` key heads; the same for all layers of most models."""
        if kv not in self._places:
            self._places[kv] = make_places(self.groups, self.length, self.segments[-1].stop, kv)
        return self._places[kv]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, layer: int, rule: Rule) -> Tensor:
        """Attend within each segment: query `[tokens, heads, size]` to the same shape."""
        if self.captured is not None:
            self.captured.append((key, value))
        kv, size = key.shape[1:]
        places = self.places(kv)
        parts = [part * kv for group in self.groups for part in group.sizes]

        # A token's query heads that share a key head move together.
        def padded(flat: Tensor) -> tuple[Tensor, ...]:
            rows = flat.reshape(self.length * kv, -1)
            return torch.split(_moved(rows, places.flat, places.padded, places.behind), parts)

        queries, keys, values = padded(query), padded(key), padded(value)
        mixed: list[Tensor] = []
        for j, group in enumerate(self.groups):
            own = slice(2 * j, 2 * j + 2)
            mixed += _group_attention(queries[own], keys[own], values[own], group, kv, size, rule, self.fused)
        moved = _moved(torch.cat(mixed), places.padded, places.flat, places.empty)
        return moved.reshape(query.shape)


def _moved(rows: Tensor, index: Tensor, inverse: Tensor, unread: Tensor) -> Tensor:
    moved: Tensor = _Moved.apply(rows, index, inverse, unread)  # type: ignore[no-untyped-call]
    return moved


class _Moved(torch.autograd.Function):
    """Rows gathered by an index. Each counts once, so that the gradient is a gather too.

    Where the index repeats a row, to fill padding, the copy's gradient is known to be zero; `unread` are
    rows that are not gathered at all. A gather's own gradient would add up instead, at ten times the cost.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, inverse: Tensor, unread: Tensor) -> Tensor:
        ctx.save_for_backward(inverse, unread)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        inverse, unread = ctx.saved_tensors
        return gradient.index_select(0, inverse).index_fill_(0, unread, 0), None, None, None


def _group_attention(
    query: Sequence[Tensor],
    key: Sequence[Tensor],
    value: Sequence[Tensor],
    group: Group,
    kv: int,
    size: int,
    rule: Rule,
    fused: bool,
) -> tuple[Tensor, Tensor]:
    """Return the outputs of a group's prefixes and rows, padded and shaped as their queries.

    Each of query, key and value comes as the prefixes' and the rows' part (see `Places`).
    """
    segments, rows, longest = group.rows_at.shape
    prefix, shared = group.prefix_at.shape[1], query[0].shape[1] // size

    # The query heads that share a key head stand beside its tokens: as many queries more, no copy of keys.
    k_prefix, v_prefix = (part[0].reshape(segments * kv, prefix, size) for part in (key, value))
    asked = query[0].reshape(segments * kv, prefix * shared, size)
    k_rows, v_rows = (part[1].reshape(segments * kv * rows, longest, size) for part in (key, value))
    together = (segments * kv, rows * longest * shared)
    apart = (segments * kv * rows, longest * shared)
    if fused and rule.sees_all(prefix + longest):
        from fedprofit.backbone.operations import attended

        nothing, none = k_prefix[:, :0], torch.zeros(segments * kv, dtype=torch.long)
        from_prefixes = attended(asked, k_prefix, v_prefix, none, nothing, nothing)
        seen = group.prefix_valid.sum(1).repeat_interleave(kv * rows)
        mixed = attended(query[1].reshape(*apart, size), k_rows, v_rows, seen, k_prefix, v_prefix)
        return from_prefixes.reshape(query[0].shape), mixed.reshape(query[1].shape)

    mask_prefix, mask_rows = group.masks_of(rule, shared, query[0].dtype)
    weights = rule.softmax(asked @ k_prefix.transpose(1, 2), mask_prefix)
    from_prefixes = (weights @ v_prefix).reshape(query[0].shape)
    # All rows of a segment ask the same prefix in one product, and each its own tokens in another.
    to_prefix = query[1].reshape(*together, size) @ k_prefix.transpose(1, 2)
    to_rows = query[1].reshape(*apart, size) @ k_rows.transpose(1, 2)
    scores = torch.cat([to_prefix.reshape(*apart, prefix), to_rows], dim=-1)
    weights = rule.softmax(scores.reshape(segments, kv * rows, *scores.shape[1:]), mask_rows)
    # Split, not sliced: the gradient of a slice is a tensor of zeros as large as the whole.
    to_prefix, to_rows = torch.split(weights.reshape(scores.shape), [prefix, longest], dim=-1)
    mixed = (to_prefix.reshape(*together, prefix) @ v_prefix).reshape(*apart, size) + to_rows @ v_rows
    return from_prefixes, mixed.reshape(query[1].shape)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    layout: Any = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: `[1, heads, tokens, size]` to `[1, tokens, heads, size]`."""
    rule = Rule(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap)
    flat = (tensor[0].transpose(0, 1) for tensor in (query * rule.scale, key, value))
    return layout.attend(*flat, layer=module.layer_idx, rule=rule).unsqueeze(0), None


def _no_mask(*_: Any, **__: Any) -> None:
    """Masks are the layout's business; transformers need not build one."""


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, _no_mask)
