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
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "fedprofit_packed"


# Sizes are rounded up to multiples of these. A kernel library compiles for each new size and keeps what
# it compiled (5 ms and 1 MB a matrix product were measured): few sizes, little of either.
FLAT, LONGEST = 64, 8

# Segments are computed together, padded to each other, while padding adds at most this share.
MOST_PADDING = 1.0


@dataclass(frozen=True)
class Segment:
    """Where one prefix and the rows behind it lie in the flat row."""

    start: int  # first flat position
    prefix: int  # tokens of the prefix, soft prompt included
    lengths: tuple[int, ...]  # tokens of each row behind it

    @property
    def stop(self) -> int:
        """First flat position behind the segment."""
        return self.start + self.prefix + sum(self.lengths)


@dataclass(frozen=True)
class Group:
    """S segments whose attention is computed together, padded to P prefix tokens and R rows of n."""

    prefix_at: Tensor  # [S, P]: flat positions, padded by the segment's first
    rows_at: Tensor  # [S, R, n]
    prefix_distance: Tensor  # [P, P]: how far back key j lies from query i; negative: hidden
    row_distance: Tensor  # [S, 1, n, P + n]: the same for a row's queries over prefix and row
    valid: Tensor  # the padded outputs to keep, of S * P prefix tokens, then of S * R * n row tokens
    flat: Tensor  # their flat positions
    masks: dict[tuple[int | None, int, torch.dtype], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def masks_of(self, rule: "Rule", shared: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return what to add to the prefix's and the rows' scores, for `shared` query heads a token.

        Most models need one in all their layers, so they are kept.
        """
        key = (rule.window, shared, dtype)
        if key not in self.masks:
            prefix, rows = (
                rule.mask(distance, dtype).repeat_interleave(shared, dim=-2)
                for distance in (self.prefix_distance, self.row_distance)
            )
            self.masks[key] = (prefix, rows)
        return self.masks[key]


class Layout:
    """The segments of one packed batch, and, where asked for, the keys and values seen."""

    def __init__(self, segments: Sequence[Segment], device: torch.device, capture: bool = False) -> None:
        """Lay the segments out in groups of similar shape."""
        self.segments = tuple(segments)
        self.groups = [make_group(members, device) for members in similar(segments)]
        self.length = rounded(segments[-1].stop, FLAT)
        order = torch.argsort(torch.cat([group.flat for group in self.groups]))
        # The padding behind the last segment gets anybody's output: nobody reads it.
        self._order = torch.nn.functional.pad(order, (0, self.length - len(order)))
        self.captured: list[tuple[Tensor, Tensor]] | None = [] if capture else None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, layer: int, rule: "Rule") -> Tensor:
        """Attend within each segment: query `[tokens, heads, size]` to the same shape."""
        if self.captured is not None:
            self.captured.append((key, value))
        parts = [_group_attention(query, key, value, group, rule) for group in self.groups]
        return torch.cat(parts).index_select(0, self._order)


def rounded(size: int, multiple: int) -> int:
    """Round up to a multiple.

    >>> rounded(65, 64), rounded(64, 64), rounded(0, 8)
    (128, 64, 0)
    """
    return -(-size // multiple) * multiple


def similar(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Split segments into groups that padding to each other enlarges by at most `MOST_PADDING`."""
    groups: list[list[Segment]] = []
    real = padded = 0
    shape = (0, 0, 0)
    for segment in sorted(segments, key=lambda s: (max(s.lengths), s.prefix, len(s.lengths))):
        own = (segment.prefix, len(segment.lengths), max(segment.lengths))
        shape = (max(shape[0], own[0]), max(shape[1], own[1]), max(shape[2], own[2]))
        real += own[0] + sum(segment.lengths)
        padded = (len(groups[-1]) + 1 if groups else 1) * (shape[0] + shape[1] * shape[2])
        if not groups or padded > (1 + MOST_PADDING) * real:
            groups.append([])
            shape, real = own, own[0] + sum(segment.lengths)
        groups[-1].append(segment)
    return groups


def make_group(segments: Sequence[Segment], device: torch.device) -> Group:
    """Lay out the attention of some segments, padded to each other."""
    count, prefix = len(segments), rounded(max(s.prefix for s in segments), LONGEST)
    rows = max(len(s.lengths) for s in segments)
    longest = rounded(max(max(s.lengths) for s in segments), LONGEST)
    start = torch.tensor([s.start for s in segments])[:, None]
    own = torch.tensor([s.prefix for s in segments])[:, None]
    size = torch.tensor([[*s.lengths, *[0] * (rows - len(s.lengths))] for s in segments])
    p, n = torch.arange(prefix), torch.arange(longest)
    prefix_at, prefix_valid = start + p, p < own
    row_start = start + own + torch.cumsum(size, 1) - size
    rows_at, rows_valid = row_start[..., None] + n, n < size[..., None]
    # A row's query j stands at position own + j; prefix key i at i, and hidden where it is padding.
    to_prefix = torch.where(prefix_valid[:, None], own[:, :, None] + n[:, None] - p, -1)
    to_row = (n[:, None] - n).expand(count, -1, -1)
    kept = torch.cat([prefix_valid.flatten(), rows_valid.flatten()])
    where = torch.cat([prefix_at.flatten(), rows_at.flatten()])
    # Padding points into the segment itself: a weight of 0 does not silence another client's NaN.
    return Group(
        prefix_at=torch.where(prefix_valid, prefix_at, start).to(device),
        rows_at=torch.where(rows_valid, rows_at, start[..., None]).to(device),
        prefix_distance=(p[:, None] - p).to(device),
        row_distance=torch.cat([to_prefix, to_row], 2)[:, None].to(device),
        valid=torch.nonzero(kept).flatten().to(device),
        flat=where[kept].to(device),
    )


@dataclass(frozen=True)
class Rule:
    """How scores become weights in one layer."""

    scale: float
    window: int | None = None  # sliding window: keys this many positions back are out of sight
    softcap: float | None = None

    def mask(self, distance: Tensor, dtype: torch.dtype) -> Tensor:
        """Return -inf where a key is out of sight (later, or beyond the window), else 0."""
        hidden = distance < 0
        if self.window is not None:
            hidden |= distance >= self.window
        return torch.zeros(distance.shape, dtype=dtype, device=distance.device).masked_fill_(
            hidden, -torch.inf
        )

    def softmax(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Softmax over the keys of scores whose queries were scaled; masked keys get no weight."""
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        # The kernel sums in float32 whatever the type; `scores` are this function's to overwrite.
        return torch.softmax(scores.add_(mask), dim=-1)


def _group_attention(q: Tensor, k: Tensor, v: Tensor, group: Group, rule: Rule) -> Tensor:
    """Return the outputs `[kept, heads, size]` of a group's tokens, in the order of `group.flat`."""
    heads, size = q.shape[1:]
    kv, shared = k.shape[1], heads // k.shape[1]
    (segments, prefix), (_, rows, longest) = group.prefix_at.shape, group.rows_at.shape

    def at(tensor: Tensor, index: Tensor) -> Tensor:
        """Gather `[S, tokens, kv, -1, size]` to `[S, kv, tokens, -1, size]`; the index is `[S, ...]`."""
        gathered = tensor.index_select(0, index.flatten())
        return gathered.reshape(segments, -1, kv, tensor.shape[1] // kv, size).transpose(1, 2)

    # The query heads that share a key head stand beside its tokens: as many queries more, no copy of keys.
    def queries(index: Tensor, tokens: int) -> Tensor:
        return at(q, index).reshape(segments * kv, tokens * shared, size)

    k_prefix, v_prefix = (at(t, group.prefix_at).reshape(segments * kv, prefix, size) for t in (k, v))
    mask_prefix, mask_rows = group.masks_of(rule, shared, q.dtype)
    weights = rule.softmax(queries(group.prefix_at, prefix) @ k_prefix.transpose(1, 2), mask_prefix)
    mixed_prefix = (weights @ v_prefix).reshape(segments, kv, prefix, shared, size)

    # All rows of a segment ask the same prefix in one product, and each its own tokens in another.
    asked = queries(group.rows_at, rows * longest)
    each = (segments * kv * rows, longest * shared)
    k_rows, v_rows = (at(t, group.rows_at).reshape(each[0], longest, size) for t in (k, v))
    to_prefix = (asked @ k_prefix.transpose(1, 2)).reshape(*each, prefix)
    scores = torch.cat([to_prefix, asked.reshape(*each, size) @ k_rows.transpose(1, 2)], dim=-1)
    weights = rule.softmax(scores.reshape(segments, kv * rows, *scores.shape[1:]), mask_rows)
    # Split, not sliced: the gradient of a slice is a tensor of zeros as large as the whole.
    to_prefix, to_rows = torch.split(weights.reshape(scores.shape), [prefix, longest], dim=-1)
    from_prefix = to_prefix.reshape(*asked.shape[:2], prefix) @ v_prefix
    mixed = from_prefix + (to_rows @ v_rows).reshape(from_prefix.shape)
    mixed = mixed.reshape(segments, kv, rows * longest, shared, size)
    parts = [part.transpose(1, 2).reshape(-1, heads, size) for part in (mixed_prefix, mixed)]
    return torch.cat(parts).index_select(0, group.valid)


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
