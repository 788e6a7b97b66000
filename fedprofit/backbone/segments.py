"""The layout of a packed batch: segments, blocks of padded segments, and attention masks."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

# Sizes are rounded up to multiples of these. A kernel library compiles and caches code for each new size
# (measured: 5 ms and 1 MB a matrix product); rounding keeps the number of sizes small.
FLAT, LONGEST = 16, 8

# Segments are padded to a common shape and computed together while padding adds at most this share of tokens.
MOST_PADDING = 0.5

# Fixed cost of an attention call, in pairs of a query and a key (docs/benchmarks).
CALL_PAIRS = 8192


@dataclass(frozen=True)
class AttentionRule:
    """How one layer computes attention weights from scores."""

    scale: float
    window: int | None = None  # sliding window: keys at this distance or more are masked
    softcap: float | None = None

    def sees_all(self, reach: int) -> bool:
        """Return whether plain causal attention over `reach` positions is exact: no window, no softcap."""
        return self.softcap is None and (self.window is None or self.window >= reach)

    def mask(self, distance: Tensor, dtype: torch.dtype) -> Tensor:
        """Return -inf where a key is masked (later, or outside the window), else 0."""
        hidden = distance < 0
        if self.window is not None:
            hidden |= distance >= self.window
        return torch.zeros(distance.shape, dtype=dtype, device=distance.device).masked_fill_(
            hidden, -torch.inf
        )

    def softmax(self, scores: Tensor, mask: Tensor) -> Tensor:
        """Return the softmax of scores over keys; masked keys get weight 0. Overwrites `scores`."""
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        # The kernel accumulates in float32 for every dtype.
        return torch.softmax(scores.add_(mask), dim=-1)


@dataclass(frozen=True)
class Segment:
    """The position of a prefix and its rows in the flat row."""

    start: int  # first flat position
    prefix: int  # tokens of the prefix, including the soft prompt
    lengths: tuple[int, ...]  # tokens of each row after the prefix

    @property
    def stop(self) -> int:
        """First flat position after the segment."""
        return self.start + self.prefix + sum(self.lengths)


@dataclass(frozen=True)
class Block:
    """R spans of n tokens in each of S segments whose attention is computed together.

    The spans are either the prefixes of the segments, or rows. Prefixes attend causally to themselves. Rows
    also attend to the P tokens of their prefix, which the preceding block of prefixes contains.
    """

    prefixes: bool
    at: Tensor  # [S, R, n]: flat positions; padding has the segment's first position
    valid: Tensor  # [S, R, n]: True for tokens, False for padding
    seen: Tensor  # [S]: tokens of the prefix without padding; 0 for blocks of prefixes
    distance: Tensor  # [S, 1, n, P + n]: distance from query back to key, prefix first; negative: masked
    masks: dict[tuple[int | None, int, torch.dtype], Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Block":
        """Copy the block to a device."""
        parts = {name: getattr(self, name).to(device) for name in ("at", "valid", "seen", "distance")}
        return replace(self, **parts)

    def mask(self, rule: AttentionRule, shared: int, dtype: torch.dtype) -> Tensor:
        """Return the mask to add to scores `[S, heads, n * shared, P + n]`.

        `shared` is the number of query heads per key head. Masks are cached: most models need one for all
        layers.
        """
        key = (rule.window, shared, dtype)
        if key not in self.masks:
            self.masks[key] = rule.mask(self.distance, dtype).repeat_interleave(shared, dim=-2)
        return self.masks[key]


@dataclass(frozen=True)
class GatherIndex:
    """Indices that gather (token, key head) pairs from flat to padded order and back.

    The flat order is `[tokens, kv]`. The padded order is block by block, `[S, kv, R, n]`, so that a gather
    also transposes tokens and heads.
    """

    flat: Tensor  # [padded pairs]: flat index of each padded pair
    padded: Tensor  # [tokens * kv]: padded index of each flat pair
    empty: Tensor  # padded indices of padding
    unused: Tensor  # flat indices after the last segment

    def to(self, device: torch.device) -> "GatherIndex":
        """Copy the indices to a device."""
        return GatherIndex(*(part.to(device) for part in (self.flat, self.padded, self.empty, self.unused)))


def rounded(size: int, multiple: int) -> int:
    """Round up to a multiple.

    >>> rounded(65, 64), rounded(64, 64), rounded(0, 8)
    (128, 64, 0)
    """
    return -(-size // multiple) * multiple


def similar(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Split segments into groups so that padding adds at most `MOST_PADDING` of their tokens."""
    groups: list[list[Segment]] = []
    tokens = padded = 0
    shape = (0, 0, 0)
    for segment in sorted(segments, key=lambda s: (max(s.lengths), s.prefix, len(s.lengths))):
        sizes = (segment.prefix, len(segment.lengths), max(segment.lengths))
        shape = (max(shape[0], sizes[0]), max(shape[1], sizes[1]), max(shape[2], sizes[2]))
        tokens += sizes[0] + sum(segment.lengths)
        padded = (len(groups[-1]) + 1 if groups else 1) * (shape[0] + shape[1] * shape[2])
        if not groups or padded > (1 + MOST_PADDING) * tokens:
            groups.append([])
            shape, tokens = sizes, sizes[0] + sum(segment.lengths)
        groups[-1].append(segment)
    return groups


def make_blocks(segments: Sequence[Segment], call: int | None) -> list[Block]:
    """Make the attention blocks of segments with a common padded shape: prefixes first, then rows.

    The tensors are on the CPU: reading a size from a GPU would wait for its pending kernels. `call` is an
    argument of `row_cuts`.
    """
    start = torch.tensor([[s.start] for s in segments])
    prefix = torch.tensor([[s.prefix] for s in segments])
    rows = max(len(s.lengths) for s in segments)
    size = torch.tensor([[*s.lengths, *[0] * (rows - len(s.lengths))] for s in segments])
    begin = start + prefix + torch.cumsum(size, 1) - size
    size, order = size.sort(dim=1, descending=True)
    begin = begin.gather(1, order)
    before = rounded(max(s.prefix for s in segments), LONGEST)
    cuts = row_cuts(size.amax(0).tolist(), len(segments), before, call)
    rows_of = [_make_block(start, begin[:, i:j], size[:, i:j], n, prefix, before) for i, j, n in cuts]
    return [_make_block(start, start, prefix, before), *rows_of]


def _make_block(
    start: Tensor, begin: Tensor, size: Tensor, longest: int, prefix: Tensor | None = None, before: int = 0
) -> Block:
    """Make a block of spans that start at `begin [S, R]`, after `prefix [S, 1]` tokens if given."""
    seen = torch.zeros_like(start) if prefix is None else prefix
    n, p = torch.arange(longest), torch.arange(before)
    valid = n < size[..., None]
    # Query j of a span has position seen + j, prefix key i has position i; padding is masked.
    to_prefix = torch.where(p < seen[..., None], seen[..., None] + n[:, None] - p, -1)
    to_own = (n[:, None] - n).expand(len(start), -1, -1)
    return Block(
        prefixes=prefix is None,
        # Padding points into the same segment: weight 0 times another client's NaN would be NaN.
        at=torch.where(valid, begin[..., None] + n, start[..., None]),
        valid=valid,
        seen=seen[:, 0],
        distance=torch.cat([to_prefix, to_own], 2)[:, None],
    )


def row_cuts(
    lengths: Sequence[int], segments: int, prefix: int, call: int | None = CALL_PAIRS
) -> list[tuple[int, int, int]]:
    """Cut rows into blocks that minimize the cost: (query, key) pairs plus a fixed cost per block.

    Args:
        lengths: tokens of each row, descending; the maximum over the segments.
        segments: number of segments with such rows.
        prefix: tokens of the prefix that each row sees.
        call: fixed cost of a block, in pairs; None makes one block.

    Returns:
        First row, end row (exclusive) and padded length of each block.

    >>> row_cuts([260, 20, 20, 12], segments=1, prefix=100)
    [(0, 1, 264), (1, 4, 24)]
    """
    padded = [rounded(length, LONGEST) for length in lengths]
    if call is None:
        return [(0, len(padded), padded[0])]
    edges = [row for row in range(len(padded)) if not row or padded[row] < padded[row - 1]]
    best: dict[int, tuple[int, list[tuple[int, int, int]]]] = {len(padded): (0, [])}
    for first in reversed(edges):
        n = padded[first]
        best[first] = min(
            (call + segments * (stop - first) * n * (prefix + n) + cost, [(first, stop, n), *rest])
            for stop, (cost, rest) in best.items()
        )
    return best[0][1]


def make_gather_index(blocks: Sequence[Block], length: int, stop: int, kv: int) -> GatherIndex:
    """Make the gather index of blocks on the CPU for `kv` key heads.

    `length` is the length of the flat row; its tokens end at `stop`.
    """
    flat, valid, heads = [], [], torch.arange(kv)[:, None, None]
    for block in blocks:
        flat.append((block.at.unsqueeze(1) * kv + heads).flatten())
        valid.append(block.valid.unsqueeze(1).expand(-1, kv, -1, -1).flatten())
    indices, is_token = torch.cat(flat), torch.cat(valid)
    tokens = torch.nonzero(is_token).flatten()
    # Positions after the last segment get an arbitrary output (index 0), which is never read.
    padded = torch.zeros(length * kv, dtype=torch.long)
    padded[indices[tokens]] = tokens
    unused = torch.arange(stop * kv, length * kv)
    return GatherIndex(indices, padded, torch.nonzero(~is_token).flatten(), unused)
