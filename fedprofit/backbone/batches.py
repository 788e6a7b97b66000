"""Split rows into micro-batches that fit a token budget.

Rows that share a prefix stay in one batch, so that the prefix is computed once. If they exceed the budget,
they are cut into pieces. The pieces are packed first-fit decreasing. The split affects memory and how
often a prefix is computed; it changes results only by rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedprofit.backbone.forward import Row, by_segment
from fedprofit.backbone.segments import FLAT, rounded

Batches = list[list[int]]  # row numbers

GROWTH = 16  # cache positions added at a time: few copies, little unused memory
# Cache positions per token of the budget: a forward pass with gradients needs about this many times more
# memory per token than a key-value cache.
CACHE_PER_TOKEN = 8
# Fixed cost of a pass, in tokens; also the fewest tokens for which a worker pays off. With SmolLM2-135M on
# one core, 25 tokens took 0.25 s, 130 tokens 0.41 s, 250 tokens 0.59 s.
PASS_TOKENS = 128
OPEN = 32  # latest batches that first-fit searches: the cost stays linear in the rows
CAPS = 32  # candidate budgets when workers share the batches


@dataclass(frozen=True)
class Size:
    """The size of a set of rows."""

    rows: int
    tokens: int  # computed tokens; each shared prefix counts once
    targets: int  # predicted tokens
    longest: int  # tokens of the longest row, including soft prompt and prefix

    def __add__(self, other: "Size") -> "Size":
        """Return the combined size."""
        tokens, targets = self.tokens + other.tokens, self.targets + other.targets
        return Size(self.rows + other.rows, tokens, targets, max(self.longest, other.longest))

    def memory(self, new: int) -> float:
        """Return the memory of a batch, in tokens of a pass with gradients.

        `new` is the most tokens generated per row; 0 means that gradients of the losses are computed.
        """
        if not new:
            return self.tokens
        # Logits need far more memory than a cache: targets count in full.
        return max(self.rows * (self.longest + min(new, GROWTH)) / CACHE_PER_TOKEN, self.targets)

    def cost(self, new: int) -> int:
        """Estimate the time of a batch, in tokens: computed tokens plus the fixed cost of each pass."""
        return rounded(self.tokens, FLAT) + self.rows * new + PASS_TOKENS * (1 + new)


@dataclass
class MicroBatch:
    """Row numbers of one pass, and their size."""

    rows: list[int]
    size: Size


def micro_batches(rows: Sequence[Row], length: int, budget: float, new: int = 0) -> Batches:
    """Split rows into batches of at most `budget` tokens; return the row numbers of each batch.

    Args:
        rows: the rows to split; each is in exactly one batch.
        length: vectors of the soft prompts.
        budget: largest memory of a batch (see `Size.memory`). A larger row gets its own batch.
        new: most tokens to generate per row; 0 if only losses are computed.
    """
    return [batch.rows for batch in _packed(rows, _segments(rows), length, budget, new)]


def worker_batches(rows: Sequence[Row], length: int, budget: int, workers: int, new: int = 0) -> Batches:
    """Split rows for workers that share the budget; minimize the load of the busiest worker.

    Small batches balance the load but need more passes and compute prefixes repeatedly. The best of `CAPS`
    candidate budgets, up to `budget / workers`, is selected. The arguments are those of `micro_batches`.
    """
    most = max(1, budget // workers)
    if workers == 1:
        return micro_batches(rows, length, most, new)
    least = min(most, PASS_TOKENS)
    caps = sorted({max(least, most * part // CAPS) for part in range(1, CAPS + 1)}, reverse=True)
    segments = _segments(rows)
    candidates = [_packed(rows, segments, length, cap, new) for cap in caps]
    best = min(candidates, key=lambda batches: _largest_load(batches, workers, new))
    return [batch.rows for batch in best]


def _segments(rows: Sequence[Row]) -> list[list[int]]:
    """Return the row numbers of each prefix, longest rows first, so that pieces contain similar rows."""
    return [
        sorted(members, key=lambda number: rows[number].tokens, reverse=True)
        for members in by_segment(rows).values()
    ]


def _packed(
    rows: Sequence[Row], segments: Sequence[list[int]], length: int, budget: float, new: int
) -> list[MicroBatch]:
    pieces = [piece for members in segments for piece in _cut(rows, members, length, budget, new)]
    pieces.sort(key=lambda piece: piece.size.longest if new else piece.size.tokens, reverse=True)
    batches: list[MicroBatch] = []
    for piece in pieces:
        for batch in batches[-OPEN:]:
            combined = batch.size + piece.size
            if combined.memory(new) <= budget:
                batch.rows += piece.rows
                batch.size = combined
                break
        else:
            batches.append(piece)
    return batches


def _cut(
    rows: Sequence[Row], members: Sequence[int], length: int, budget: float, new: int
) -> list[MicroBatch]:
    """Cut the rows of one prefix, in the given order, into pieces that fit the budget."""
    prefix = length + len(rows[members[0]].example.prefix)
    pieces: list[MicroBatch] = []
    for number in members:
        row = rows[number]
        targets = len(row.example.target) if row.target else 1
        if pieces:
            combined = pieces[-1].size + Size(1, row.tokens, targets, prefix + row.tokens)
            if combined.memory(new) <= budget:
                pieces[-1].rows.append(number)
                pieces[-1].size = combined
                continue
        pieces.append(MicroBatch([number], Size(1, prefix + row.tokens, targets, prefix + row.tokens)))
    return pieces


def _largest_load(batches: Sequence[MicroBatch], workers: int, new: int) -> int:
    """Return the load of the busiest worker if each idle worker takes the next batch."""
    loads = [0] * workers
    for batch in batches:
        loads[loads.index(min(loads))] += batch.size.cost(new)
    return max(loads)
