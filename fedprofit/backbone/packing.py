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
    prefix_valid: Tensor  # [S, P]: whether a token stands there, or padding
    rows_valid: Tensor  # [S, R, n]
    prefix_distance: Tensor  # [P, P]: how far back key j lies from query i; negative: hidden
    row_distance: Tensor  # [S, 1, n, P + n]: the same for a row's queries over prefix and row
    masks: dict[tuple[int | None, int, torch.dtype], tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def sizes(self) -> tuple[int, int]:
        """Padded tokens of the prefixes, and of the rows."""
        return self.prefix_at.numel(), self.rows_at.numel()

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


@dataclass(frozen=True)
class Places:
    """Where each token's heads lie, flat and padded, counted in (token, key head) pairs.

    Flat they come token by token, `[tokens, kv]`; padded, group by group, `[S, kv, P]` for the prefixes,
    then `[S, kv, R, n]` for the rows: a gather by these is the transposition too.
    """

    flat: Tensor  # [padded]: the flat place of each padded one
    padded: Tensor  # [tokens * kv]: the padded place of each flat one
    empty: Tensor  # padded places where no token stands
    behind: Tensor  # flat places behind the last segment


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
        self.captured: list[tuple[Tensor, Tensor]] | None = [] if capture else None
        self._places: dict[int, Places] = {}

    def places(self, kv: int) -> Places:
        """Return where the tokens' heads lie, for `kv` key heads; the same for all layers of most models."""
        if kv not in self._places:
            self._places[kv] = make_places(self.groups, self.length, self.segments[-1].stop, kv)
        return self._places[kv]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, layer: int, rule: "Rule") -> Tensor:
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
    # Padding points into the segment itself: a weight of 0 does not silence another client's NaN.
    return Group(
        prefix_at=torch.where(prefix_valid, prefix_at, start).to(device),
        rows_at=torch.where(rows_valid, rows_at, start[..., None]).to(device),
        prefix_valid=prefix_valid.to(device),
        rows_valid=rows_valid.to(device),
        prefix_distance=(p[:, None] - p).to(device),
        row_distance=torch.cat([to_prefix, to_row], 2)[:, None].to(device),
    )


def make_places(groups: Sequence[Group], length: int, stop: int, kv: int) -> Places:
    """Say where each token's heads lie; `length` is the flat row's, whose tokens end at `stop`."""
    flat, valid = [], []
    for group in groups:
        for at, there in ((group.prefix_at, group.prefix_valid), (group.rows_at, group.rows_valid)):
            heads = torch.arange(kv, device=at.device).reshape(-1, *[1] * (at.ndim - 1))
            flat.append((at.unsqueeze(1) * kv + heads).flatten())
            valid.append(there.unsqueeze(1).expand(-1, kv, *there.shape[1:]).flatten())
    where, kept = torch.cat(flat), torch.cat(valid)
    full = torch.nonzero(kept).flatten()
    # The padding behind the last segment gets anybody's output: nobody reads it.
    padded = torch.zeros(length * kv, dtype=torch.long, device=where.device)
    padded[where[full]] = full
    behind = torch.arange(stop * kv, length * kv, device=where.device)
    return Places(where, padded, torch.nonzero(~kept).flatten(), behind)


@dataclass(frozen=True)
class Rule:
    """How scores become weights in one layer."""

    scale: float
    window: int | None = None  # sliding window: keys this many positions back are out of sight
    softcap: float | None = None

    def sees_all(self, reach: int) -> bool:
        """Tell whether a query sees all that stands before it, up to `reach` positions back."""
        return self.softcap is None and (self.window is None or self.window >= reach)

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
