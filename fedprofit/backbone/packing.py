"""Packing: all tokens of all clients in one flat row, attention apart by client.

The rows of a client share what comes first: its soft prompt and, task by task, the definition. Such a
shared prefix and the rows behind it are a *segment*. A packed batch lays its segments one after the
other in one row of T tokens:

    [prompt definition | row | row | row][prompt definition | row | row] ...

Linear layers and norms of any model act token by token and need not know. Only attention must:
`packed_attention` is registered with transformers as an attention implementation and is handed the
layout through the model's keyword arguments. A prefix attends causally to itself; a row attends to its
prefix and causally to itself. Segments of similar shape, and rows of similar length behind them, are
padded to each other, in attention alone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from fedprofit.backbone.segments import (
    CALL_PAIRS,
    FLAT,
    Block,
    Places,
    Rule,
    Segment,
    make_blocks,
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
        # Only measured on CPUs: a GPU takes small calls worse, and rows are not cut for it.
        call = CALL_PAIRS if device.type == "cpu" else None
        self._drawn = [block for members in similar(segments) for block in make_blocks(members, call)]
        self._device, self.blocks = device, [block.to(device) for block in self._drawn]
        self.length = rounded(segments[-1].stop, FLAT)
        # Flat positions whose last hidden state alone is read. A last layer that keeps to them clears it.
        self.read_at: Tensor | None = None
        self.captured: list[tuple[Tensor, Tensor]] | None = [] if capture else None
        self._places: dict[int, Places] = {}

    def places(self, kv: int) -> Places:
        """Return where the tokens' heads lie, for `kv` key heads; the same for all layers of most models."""
        if kv not in self._places:
            drawn = make_places(self._drawn, self.length, self.segments[-1].stop, kv)
            self._places[kv] = drawn.to(self._device)
        return self._places[kv]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, layer: int, rule: Rule) -> Tensor:
        """Attend within each segment: query `[tokens, heads, size]` to the same shape."""
        if self.captured is not None:
            self.captured.append((key, value))
        kv, size = key.shape[1:]
        places = self.places(kv)
        sizes = [block.at.numel() * kv for block in self.blocks]

        # A token's query heads that share a key head move together.
        def padded(flat: Tensor) -> tuple[Tensor, ...]:
            rows = flat.reshape(self.length * kv, -1)
            return torch.split(_moved(rows, places.flat, places.padded, places.behind), sizes)

        mixed, before = [], (key.new_empty(0), value.new_empty(0))
        for block, *parts in zip(self.blocks, padded(query), padded(key), padded(value), strict=True):
            segments, stretches, _ = block.at.shape
            # The query heads that share a key head stand beside its tokens: no copy of keys.
            q, k, v = (part.reshape(segments * kv * stretches, -1, size) for part in parts)
            if block.prefixes:
                nothing = k.new_empty(segments * kv, 0, size)
                own, before = _attended(q, k, v, nothing, nothing, block, rule, self.fused), (k, v)
            else:
                own = _attended(q, k, v, *before, block, rule, self.fused)
            mixed.append(own.reshape(parts[0].shape))
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


def _attended(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_before: Tensor,
    value_before: Tensor,
    block: Block,
    rule: Rule,
    fused: bool,
) -> Tensor:
    """Attend as `operations.attended` does, whose arguments these are, also where `rule` hides keys."""
    before, longest = key_before.shape[1], key.shape[1]
    if not longest:
        return query  # an empty prefix
    if fused and rule.sees_all(before + longest):
        from fedprofit.backbone.operations import attended

        seen = block.seen.repeat_interleave(len(key) // len(block.seen))
        return attended(query, key, value, seen, key_before, value_before)

    scores = query @ key.transpose(1, 2)
    # All rows of a segment ask the same prefix in one product, and each its own tokens in another.
    together = query.reshape(len(key_before), -1, query.shape[2])
    if before:
        to_before = together @ key_before.transpose(1, 2)
        scores = torch.cat([to_before.reshape(*query.shape[:2], before), scores], dim=-1)
    mask = block.mask(rule, query.shape[1] // longest, query.dtype)
    weights = rule.softmax(scores.reshape(len(block.seen), -1, *scores.shape[1:]), mask)
    # Split, not sliced: the gradient of a slice is a tensor of zeros as large as the whole.
    to_before, to_own = torch.split(weights.reshape(scores.shape), [before, longest], dim=-1)
    mixed = to_own @ value
    if before:
        mixed = mixed + (to_before.reshape(*together.shape[:2], before) @ value_before).reshape(query.shape)
    return mixed


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
    if layout is None:
        raise ValueError("the model does not pass the layout on to its attention")
    rule = Rule(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap)
    flat = (tensor[0].transpose(0, 1) for tensor in (query * rule.scale, key, value))
    return layout.attend(*flat, layer=module.layer_idx, rule=rule).unsqueeze(0), None


def _no_mask(*_: Any, **__: Any) -> None:
    """Masks are the layout's business; transformers need not build one."""


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, _no_mask)
