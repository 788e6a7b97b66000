"""How rows are split into micro-batches that fit into a token budget.

Rows of one owner that share a prefix stay together, so that it is read once; they are cut where they do not
fit. The pieces go, largest first, each into the first batch that has room. How rows are split decides what is
read twice and what is held at once; it changes no result beyond rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fedprofit.backbone.forward import Row, by_segment
from fedprofit.backbone.segments import FLAT, rounded

Batches = list[list[int]]  # row numbers

GROWTH = 16  # cache positions added at a time: few copies, little room unused
# Cache positions held for each token of a token budget: a forward pass with gradients keeps about this many
# times more per token than a key-value cache does.
CACHE_PER_TOKEN = 8
# What a pass costs however little it reads, in tokens; a worker is worth no fewer. With SmolLM2-135M on one
# core 25 tokens took 0.25 s, 130 tokens 0.41 s, 250 tokens 0.59 s.
PASS_TOKENS = 128
OPEN = 32  # batches that a piece is tried on, the latest ones: the effort stays linear in the rows
CAPS = 32  # budgets tried where workers share the batches


@dataclass(frozen=True)
class Size:
    """What some rows amount to."""

    rows: int
    tokens: int  # read, each shared prefix once
    targets: int  # tokens predicted
    longest: int  # tokens of the longest row, soft prompt and prefix included

    def __add__(self, other: "Size") -> "Size":
        """Return the size of both together."""
        tokens, targets = self.tokens + other.tokens, self.targets + other.targets
        return Size(self.rows + other.rows, tokens, targets, max(self.longest, other.longest))

    def held(self, new: int) -> float:
        """Return the memory that a batch takes, in tokens of a pass with gradients.

        `new` tokens at most are generated behind each row; with none the losses are differentiated.
        """
        if not new:
            return self.tokens
        # Logits take far more than a cache does, so that targets count in full.
        return max(self.rows * (self.longest + min(new, GROWTH)) / CACHE_PER_TOKEN, self.targets)

    def work(self, new: int) -> int:
        """Return about how long a batch takes, in tokens: those computed, and what its passes cost."""
        return rounded(self.tokens, FLAT) + self.rows * new + PASS_TOKENS * (1 + new)


@dataclass
class MicroBatch:
    """Rows that share a pass."""

    rows: list[int]
    size: Size


def micro_batches(rows: Sequence[Row], length: int, budget: float, new: int = 0) -> Batches:
    """Split rows into lists of row numbers that hold at most `budget` tokens each.

    Args:
        rows: what is read; each comes in exactly one batch.
        length: vectors of the soft prompts.
        budget: what a batch may hold (see `Size.held`). A row that alone exceeds it comes alone.
        new: tokens at most to generate behind each row; 0 where only losses are asked for.
    """
    return [batch.rows for batch in _packed(rows, _segments(rows), length, budget, new)]


def worker_batches(rows: Sequence[Row], length: int, budget: int, workers: int, new: int = 0) -> Batches:
    """Split rows for workers that share the budget, so that the busiest has as little to do as can be.

    Small batches share out evenly, but cost more passes and read more prefixes again: of `CAPS` budgets
    up to a worker's part of the whole the best is taken. Args as of `micro_batches`.
    """
    most = max(1, budget // workers)
    if workers == 1:
        return micro_batches(rows, length, most, new)
    least = min(most, PASS_TOKENS)
    caps = sorted({max(least, most * part // CAPS) for part in range(1, CAPS + 1)}, reverse=True)
    segments = _segments(rows)
    tried = [_packed(rows, segments, length, cap, new) for cap in caps]
    best = min(tried, key=lambda batches: _busiest(batches, workers, new))
    return [batch.rows for batch in best]


def _segments(rows: Sequence[Row]) -> list[list[int]]:
    """Return the row numbers behind each prefix, longest rows first: rows cut off together are alike."""
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
            together = batch.size + piece.size
            if together.held(new) <= budget:
                batch.rows += piece.rows
                batch.size = together
                break
        else:
            batches.append(piece)
    return batches


def _cut(
    rows: Sequence[Row], members: Sequence[int], length: int, budget: float, new: int
) -> list[MicroBatch]:
    """Cut the rows behind one prefix, in the order given, into pieces that fit."""
    prefix = length + len(rows[members[0]].example.prefix)
    pieces: list[MicroBatch] = []
    for number in members:
        row = rows[number]
        targets = len(row.example.target) if row.target else 1
        if pieces:
            together = pieces[-1].size + Size(1, row.tokens, targets, prefix + row.tokens)
            if together.held(new) <= budget:
                pieces[-1].rows.append(number)
                pieces[-1].size = together
                continue
        pieces.append(MicroBatch([number], Size(1, prefix + row.tokens, targets, prefix + row.tokens)))
    return pieces


def _busiest(batches: Sequence[MicroBatch], workers: int, new: int) -> int:
    """Return the most work of a worker, where each takes the next batch as it has done its last."""
    done = [0] * workers
    for batch in batches:
        done[done.index(min(done))] += batch.size.work(new)
    return max(done)
