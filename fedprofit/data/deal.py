"""Dealing of rows to clients, from one task per client to IID.

`dealt.py` determines the rows of a group of clients and the number of rows per client. They are the same at
every level of heterogeneity: a level determines only which client gets which row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedprofit.data.splits import Ints

CELLS = 2**22  # numbers in a block of clients x classes: bounds memory; results do not depend on it
TURNS = 2048  # for clients with more rows, a turn deals several


def deal(stock: Ints, mixes: NDArray[Any], sizes: Ints, generator: np.random.Generator) -> Ints:
    """Deal rows to clients in turns; return the rows of each class per client, `[clients, classes]`.

    In a turn, each client that needs a row draws a class from its mix, restricted to classes in stock; if
    none of its classes is in stock, from the mix of the stock. If several draw the last row of a class, it
    goes to a random one and the others redraw.

    Args:
        stock: rows of each class, `[classes]`; together at least `sizes.sum()`.
        mixes: each client's weights, `[clients, classes]`; they need not sum to one.
        sizes: rows per client, `[clients]`.
        generator: source of all draws.

    >>> one_each = np.eye(2)
    >>> deal(np.array([3, 2]), one_each, np.array([3, 2]), np.random.default_rng(0)).tolist()
    [[3, 0], [0, 2]]
    """
    left = stock.copy()
    got = np.zeros((len(sizes), len(stock)), np.int64)
    step = max(1, int(sizes.max(initial=0)) // TURNS)
    for turn in range(0, int(sizes.max(initial=0)), step):
        owed = np.clip(sizes - turn, 0, step)
        waiting = generator.permutation(np.repeat(np.arange(len(sizes)), owed))
        while len(waiting):
            drawn = _draw(mixes, left, waiting, generator)
            served = _rank_among_equals(drawn) < left[drawn]
            np.add.at(got, (waiting[served], drawn[served]), 1)
            left -= np.bincount(drawn[served], minlength=len(left))
            waiting = waiting[~served]
    return got


def _draw(mixes: NDArray[Any], left: Ints, clients: Ints, generator: np.random.Generator) -> Ints:
    drawn = np.empty(len(clients), np.int64)
    block = max(1, CELLS // len(left))
    for start in range(0, len(clients), block):
        some = clients[start : start + block]
        reach = np.cumsum(np.where(left > 0, mixes[some], 0), axis=1, dtype=np.float64)
        reach[reach[:, -1] <= 0] = np.cumsum(left)
        # The factor prevents rounding up to the total, beyond which there is no class.
        level = generator.random(len(some)) * (1 - 1e-12) * reach[:, -1]
        drawn[start : start + block] = (reach <= level[:, None]).sum(axis=1)
    return drawn


def _rank_among_equals(values: Ints) -> Ints:
    """Return, for each value, the number of equal values before it."""
    order = np.argsort(values, kind="stable")
    counts = np.bincount(values)
    rank = np.empty(len(values), np.int64)
    rank[order] = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)[: len(values)]
    return rank


def fill(stock: Ints, quotas: Ints, sizes: Ints, generator: np.random.Generator) -> Ints:
    """Give clients their quotas, `[clients, classes]`, exactly while the stock lasts; deal the rest.

    Clients are served in a random order. Returns `[clients, classes]`.
    """
    order = generator.permutation(len(sizes))
    asked = quotas[order]
    got = np.empty_like(quotas)
    got[order] = np.clip(stock - (np.cumsum(asked, axis=0) - asked), 0, asked)
    rest = sizes - got.sum(axis=1)
    return got + deal(stock - got.sum(axis=0), quotas, rest, generator) if rest.any() else got


def apportion(weights: NDArray[np.float64], total: int) -> Ints:
    """Divide `total` in proportion to the weights, by largest remainder.

    >>> apportion(np.array([1.0, 1.0, 2.0]), 6).tolist()
    [2, 1, 3]
    """
    exact = weights / weights.sum() * total
    parts: Ints = np.floor(exact).astype(np.int64)
    order = np.argsort(parts - exact, kind="stable")
    parts[order[: total - parts.sum()]] += 1
    return parts


@dataclass(frozen=True)
class Stock:
    """The rows of one group of clients, and the number of rows per client.

    Attributes:
        labels: each row's label, a task or category, as a position from 0 among those present, `[rows]`.
        split: each row's split, `[rows]`: 0 train, 1 validation, 2 test.
        given: each client's task, as a label, `[clients]`; -1 if labels are categories.
        sizes: rows of each split per client, `[clients, 3]`. They sum to the number of rows.
    """

    labels: Ints
    split: NDArray[np.int8]
    given: Ints
    sizes: Ints

    @cached_property
    def counts(self) -> Ints:
        """Rows by label and split, `[labels, 3]`."""
        cells: Ints = self.labels * 3 + self.split
        return np.bincount(cells, minlength=3 * (int(self.labels.max()) + 1)).reshape(-1, 3)

    @property
    def prior(self) -> Ints:
        """Rows by label, `[labels]`."""
        prior: Ints = self.counts.sum(axis=1)
        return prior

    def by_mix(self, mixes: NDArray[Any], generator: np.random.Generator) -> Ints:
        """Deal by each client's mix of labels, `[clients, labels]`, the same for its three splits.

        Returns each row's client, `[rows]`.
        """
        return self._spread(lambda s: deal(self.counts[:, s], mixes, self.sizes[:, s], generator), generator)

    def by_choice(self, choices: Ints, generator: np.random.Generator) -> Ints:
        """Divide each client's rows evenly among its labels, `[clients, m]`, as far as the rows suffice.

        Returns each row's client, `[rows]`.
        """

        def give(s: int) -> Ints:
            quotas = _quotas(choices, self.sizes[:, s], len(self.counts))
            return fill(self.counts[:, s], quotas, self.sizes[:, s], generator)

        return self._spread(give, generator)

    def _spread(self, give: Callable[[int], Ints], generator: np.random.Generator) -> Ints:
        """Draw the rows of each client, as many as `give(split)` says, `[clients, labels]`."""
        owner = np.empty(len(self.labels), np.int64)
        for s in range(3):
            got = give(s)
            rows = generator.permutation(np.flatnonzero(self.split == s))
            rows = rows[np.argsort(self.labels[rows], kind="stable")]
            owner[rows] = np.repeat(np.tile(np.arange(len(self.sizes)), len(self.counts)), got.T.ravel())
        return owner


def _quotas(choices: Ints, sizes: Ints, kinds: int) -> Ints:
    """Divide each client's size evenly among its `choices` [clients, m]; earlier ones get the remainder."""
    quotas = np.zeros((len(sizes), kinds), np.int64)
    count = choices.shape[1]
    for number in range(count):
        quotas[np.arange(len(sizes)), choices[:, number]] += sizes // count + (number < sizes % count)
    return quotas


def dirichlet(alpha: float, prior: Ints, clients: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """Draw each client's mix, `[clients, labels]`, from Dirichlet(alpha x prior), the prior scaled to 1."""
    mixes = np.empty((clients, len(prior)), np.float32)
    block = max(1, CELLS // len(prior))
    for start in range(0, clients, block):
        stop = min(start + block, clients)
        mixes[start:stop] = generator.dirichlet(alpha * prior / prior.sum(), size=stop - start)
    return mixes
