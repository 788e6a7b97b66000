"""How a packed batch is laid out: segments, groups of them padded to each other, and who sees what."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Sizes are rounded up to multiples of these. A kernel library compiles for each new size and keeps what
# it compiled (5 ms and 1 MB a matrix product were measured): few sizes, little of either.
FLAT, LONGEST = 64, 8

# Segments are computed together, padded to each other, while padding adds at most this share.
MOST_PADDING = 0.5


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

    def masks_of(self, rule: Rule, shared: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
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
