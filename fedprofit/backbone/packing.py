"""Packing: all tokens of all clients in one flat row, with separate attention per client.

The rows of a client share a prefix: its soft prompt and, for each task, the definition. A prefix and its rows
are a *segment*. A packed batch concatenates its segments into one row of T tokens:

    [prompt definition | row | row | row][prompt definition | row | row] ...

Linear layers and norms act on each token and need no change. Attention does: `packed_attention` is registered
with transformers as an attention implementation and receives the layout through the model's keyword
arguments. A prefix attends causally to itself. A row attends to its prefix and causally to itself. Only
attention pads: segments of similar shape, and their rows of similar length, are padded to a common shape.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from fedprofit.backbone.segments import (
    CALL_PAIRS,
    FLAT,
    AttentionRule,
    Block,
    GatherIndex,
    Segment,
    make_blocks,
    make_gather_index,
    rounded,
    similar,
)

NAME = "fedprofit_packed"


class Layout:
    """The segments of a packed batch and, if `capture` is set, the keys and values of each layer."""

    def __init__(
        self, segments: Sequence[Segment], device: torch.device, capture: bool = False, fused: bool = False
    ) -> None:
        """Group the segments by shape and make their attention blocks."""
        self.segments = tuple(segments)
        self.fused = fused  # whether layers use their fused forward, if they have one (see `fused.py`)
        # Measured on CPUs only. Small calls are slower on a GPU: rows are not cut there.
        call = CALL_PAIRS if device.type == "cpu" else None
        self._cpu_blocks = [block for members in similar(segments) for block in make_blocks(members, call)]
        self._device, self.blocks = device, [block.to(device) for block in self._cpu_blocks]
        self.length = rounded(segments[-1].stop, FLAT)
        # Flat positions whose last hidden state is needed. A last layer that uses it sets it to None.
        self.read_at: Tensor | None = None
        self.captured: list[tuple[Tensor, Tensor]] | None = [] if capture else None
        self._indices: dict[int, GatherIndex] = {}

    def gather_index(self, kv: int) -> GatherIndex:
        """Return the gather index for `kv` key heads; cached, as most layers share `kv`."""
        if kv not in self._indices:
            index = make_gather_index(self._cpu_blocks, self.length, self.segments[-1].stop, kv)
            self._indices[kv] = index.to(self._device)
        return self._indices[kv]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, layer: int, rule: AttentionRule) -> Tensor:
        """Compute attention within each segment: query `[tokens, heads, size]` to the same shape."""
        if self.captured is not None:
            self.captured.append((key, value))
        kv, size = key.shape[1:]
        index = self.gather_index(kv)
        sizes = [block.at.numel() * kv for block in self.blocks]

        # The query heads of a token that share a key head are gathered as one row.
        def padded(flat: Tensor) -> tuple[Tensor, ...]:
            rows = flat.reshape(self.length * kv, -1)
            return torch.split(_gathered(rows, index.flat, index.padded, index.unused), sizes)

        outputs, before = [], (key.new_empty(0), value.new_empty(0))
        for block, *parts in zip(self.blocks, padded(query), padded(key), padded(value), strict=True):
            segments, spans, _ = block.at.shape
            # Query heads that share a key head become additional queries: keys are not copied.
            q, k, v = (part.reshape(segments * kv * spans, -1, size) for part in parts)
            if block.prefixes:
                empty = k.new_empty(segments * kv, 0, size)
                output, before = _attended(q, k, v, empty, empty, block, rule, self.fused), (k, v)
            else:
                output = _attended(q, k, v, *before, block, rule, self.fused)
            outputs.append(output.reshape(parts[0].shape))
        flat = _gathered(torch.cat(outputs), index.padded, index.flat, index.empty)
        return flat.reshape(query.shape)


def _gathered(rows: Tensor, index: Tensor, inverse: Tensor, unread: Tensor) -> Tensor:
    gathered: Tensor = _Gather.apply(rows, index, inverse, unread)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    """A gather whose backward pass is also a gather, at a tenth of the cost of torch's scatter-add.

    Rows that the index repeats, as padding, must have zero gradient in the copies. `unread` are the rows that
    are not gathered; their gradient is zero.
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
    rule: AttentionRule,
    fused: bool,
) -> Tensor:
    """Compute the attention of `operations.attended`, with the window and softcap of `rule`."""
    before, longest = key_before.shape[1], key.shape[1]
    if not longest:
        return query  # an empty prefix
    if fused and rule.sees_all(before + longest):
        from fedprofit.backbone.operations import attended

        seen = block.seen.repeat_interleave(len(key) // len(block.seen))
        return attended(query, key, value, seen, key_before, value_before)

    scores = query @ key.transpose(1, 2)
    # One product scores all rows of a segment against their prefix, another each row against itself.
    grouped = query.reshape(len(key_before), -1, query.shape[2])
    if before:
        to_before = grouped @ key_before.transpose(1, 2)
        scores = torch.cat([to_before.reshape(*query.shape[:2], before), scores], dim=-1)
    mask = block.mask(rule, query.shape[1] // longest, query.dtype)
    weights = rule.softmax(scores.reshape(len(block.seen), -1, *scores.shape[1:]), mask)
    # Split instead of slices: the backward pass of each slice allocates a full-size tensor of zeros.
    to_before, to_own = torch.split(weights.reshape(scores.shape), [before, longest], dim=-1)
    output = to_own @ value
    if before:
        output = output + (to_before.reshape(*grouped.shape[:2], before) @ value_before).reshape(query.shape)
    return output


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
    """Implement transformers' interface: `[1, heads, tokens, size]` to `[1, tokens, heads, size]`."""
    if layout is None:
        raise ValueError("the model does not pass the layout to its attention")
    rule = AttentionRule(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap)
    flat = (tensor[0].transpose(0, 1) for tensor in (query * rule.scale, key, value))
    return layout.attend(*flat, layer=module.layer_idx, rule=rule).unsqueeze(0), None


def _no_mask(*_: Any, **__: Any) -> None:
    """Return no mask: the layout makes the masks."""


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, _no_mask)
