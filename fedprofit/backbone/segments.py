"""How a packed batch is laid out: segments, groups of them padded to each other, and who sees what."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

# Sizes are rounded up to multiples of these. A kernel library compiles for each new size and keeps what
# it compiled (5 ms and 1 MB a matrix product were measured): few sizes, little of either.
FLAT, LONGEST = 16, 8

# Segments are computed together, padded to each other, while padding adds at most this share.
MOST_PADDING = 0.5

# What a call costs in attention however little it computes, in pairs of a query and a key (docs/benchmarks).
CALL_PAIRS = 8192


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
class Block:
    """R stretches of n tokens in each of S segments whose attention is computed together.

    They are the segments' prefixes, which attend causally to themselves, or rows behind them, which attend to
    the P tokens of their prefix too: those of the last block of prefixes before.
    """

    prefixes: bool
    at: Tensor  # [S, R, n]: flat positions, padded by the segment's first
    valid: Tensor  # [S, R, n]: whether a token stands there, or padding
    seen: Tensor  # [S]: tokens of the prefix before, padding aside; 0 where there is none
    distance: Tensor  # [S, 1, n, P + n]: how far back a key lies, prefix's and own; negative: hidden
    masks: dict[tuple[int | None, int, torch.dtype], Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Block":
        """Return the same block on a device."""
        parts = {name: getattr(self, name).to(device) for name in ("at", "valid", "seen", "distance")}
        return replace(self, **parts)

    def mask(self, rule: Rule, shared: int, dtype: torch.dtype) -> Tensor:
        """Return what to add to scores `[S, heads, n * shared, P + n]`, for `shared` query heads a token.

        Most models need one in all their layers, so it is kept.
        """
        key = (rule.window, shared, dtype)
        if key not in self.masks:
            self.masks[key] = rule.mask(self.distance, dtype).repeat_interleave(shared, dim=-2)
        return self.masks[key]


@dataclass(frozen=True)
class Places:
    """Where each token's heads lie, flat and padded, counted in (token, key head) pairs.

    Flat they come token by token, `[tokens, kv]`; padded, block by block, `[S, kv, R, n]`: a gather by these
    is the transposition too.
    """

    flat: Tensor  # [padded]: the flat place of each padded one
    padded: Tensor  # [tokens * kv]: the padded place of each flat one
    empty: Tensor  # padded places where no token stands
    behind: Tensor  # flat places behind the last segment

    def to(self, device: torch.device) -> "Places":
        """Return the same places on a device."""
        return Places(*(part.to(device) for part in (self.flat, self.padded, self.empty, self.behind)))


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


def make_blocks(segments: Sequence[Segment], call: int | None) -> list[Block]:
    """Lay out the attention of segments padded to each other: first their prefixes, then their rows.

    On the CPU, whatever computes: to be asked for a size, a GPU would first end what it is at. `call` is as
    of `row_cuts`.
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
    """Lay out stretches that begin at `begin [S, R]`, behind prefixes of `prefix [S, 1]` tokens or none."""
    seen = torch.zeros_like(start) if prefix is None else prefix
    n, p = torch.arange(longest), torch.arange(before)
    valid = n < size[..., None]
    # A stretch's query j stands at position seen + j; prefix key i at i, and hidden where it is padding.
    to_prefix = torch.where(p < seen[..., None], seen[..., None] + n[:, None] - p, -1)
    to_own = (n[:, None] - n).expand(len(start), -1, -1)
    return Block(
        prefixes=prefix is None,
        # Padding points into the segment itself: a weight of 0 does not silence another client's NaN.
        at=torch.where(valid, begin[..., None] + n, start[..., None]),
        valid=valid,
        seen=seen[:, 0],
        distance=torch.cat([to_prefix, to_own], 2)[:, None],
    )


def row_cuts(
    lengths: Sequence[int], segments: int, prefix: int, call: int | None = CALL_PAIRS
) -> list[tuple[int, int, int]]:
    """Cut rows into blocks so that all pairs of a query and a key and all calls together cost least.

    Args:
        lengths: the rows' tokens, the longest in any segment, descending.
        segments: how many segments have such rows.
        prefix: tokens that each row sees before its own.
        call: what each block costs besides its pairs, in pairs; None: too much to cut.

    Returns:
        First row, the row behind the last, and the tokens that rows are padded to, of each block.

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
            (call + segments * (stop - first) * n * (prefix + n) + cost, [(first, stop, n), *behind])
            for stop, (cost, behind) in best.items()
        )
    return best[0][1]


def make_places(blocks: Sequence[Block], length: int, stop: int, kv: int) -> Places:
    """Say where each token's heads lie, on the CPU as the blocks are.

    `length` is the flat row's, whose tokens end at `stop`.
    """
    flat, valid, heads = [], [], torch.arange(kv)[:, None, None]
    for block in blocks:
        flat.append((block.at.unsqueeze(1) * kv + heads).flatten())
        valid.append(block.valid.unsqueeze(1).expand(-1, kv, -1, -1).flatten())
    where, kept = torch.cat(flat), torch.cat(valid)
    full = torch.nonzero(kept).flatten()
    # The padding behind the last segment gets anybody's output: nobody reads it.
    padded = torch.zeros(length * kv, dtype=torch.long)
    padded[where[full]] = full
    behind = torch.arange(stop * kv, length * kv)
    return Places(where, padded, torch.nonzero(~kept).flatten(), behind)
