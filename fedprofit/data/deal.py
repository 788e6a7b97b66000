"""Deal rows to clients, from one task a client to all alike.

Which rows a group of clients uses, and how many each client gets, is settled before (`dealt.py`) and
is the same at every level of heterogeneity. A level only decides who gets which of those rows.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedprofit.data.settings import Partition
from fedprofit.data.splits import Ints

CELLS = 2**22  # numbers in one block of clients x classes: bounds memory, changes no result
TURNS = 2048  # where clients own more rows than this, a turn takes several


def deal(stock: Ints, mixes: NDArray[Any], sizes: Ints, generator: np.random.Generator) -> Ints:
    """Deal `stock` to clients in turns; return how many of each class each got, int64 [clients, classes].

    In a turn each client that is still owed a row draws a class from its mix, restricted to the
    classes that have stock; where these are exhausted, from the stock's own mix. When several draw
    the last of a class, chance decides and the others draw again.

    `stock` [classes] holds at least `sizes.sum()`; `mixes` [clients, classes] need not sum to one;
    `sizes` [clients].

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
        # The factor keeps rounding from reaching the total, where no class would be found.
        level = generator.random(len(some)) * (1 - 1e-12) * reach[:, -1]
        drawn[start : start + block] = (reach <= level[:, None]).sum(axis=1)
    return drawn


def _rank_among_equals(values: Ints) -> Ints:
    """Return for each value how many equal ones come before it."""
    order = np.argsort(values, kind="stable")
    counts = np.bincount(values)
    rank = np.empty(len(values), np.int64)
    rank[order] = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)[: len(values)]
    return rank


def fill(stock: Ints, quotas: Ints, sizes: Ints, generator: np.random.Generator) -> Ints:
    """Give clients their quotas [clients, classes] exactly, as far as the stock goes; deal the rest.

    Clients come first in an order drawn by chance. Returns int64 [clients, classes].
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


def deal_rows(
    labels: Ints,
    split: NDArray[np.int8],
    dealt: Ints,
    sizes: Ints,
    settings: Partition,
    generator: np.random.Generator,
) -> Ints:
    """Return who gets each row, int64 [rows], at the level of heterogeneity that the settings name.

    `labels` [rows] are the rows' tasks or categories, `split` [rows] their splits; `dealt` [clients] is
    the task that each client was given, `sizes` [clients, 3] how many rows it gets of each split; their
    sums are the rows there are. The same mix serves a client's three splits.
    """
    kinds, label = np.unique(labels, return_inverse=True)
    stock = np.bincount(label * 3 + split, minlength=3 * len(kinds)).reshape(-1, 3)
    prior, owner = stock.sum(axis=1), np.empty(len(labels), np.int64)
    if not len(labels):
        return owner
    by_chance = settings.kind in ("iid", "dirichlet")
    if by_chance:
        mixes: NDArray[Any] = np.broadcast_to(prior, (len(sizes), len(kinds)))
        if settings.kind == "dirichlet":
            mixes = _dirichlet(settings.alpha, prior, len(sizes), generator)
    else:
        choices = _choices(kinds, dealt, prior, settings, generator)
    for s in range(3):
        if by_chance:
            got = deal(stock[:, s], mixes, sizes[:, s], generator)
        else:
            got = fill(stock[:, s], _quotas(choices, sizes[:, s], len(kinds)), sizes[:, s], generator)
        rows = generator.permutation(np.flatnonzero(split == s))
        rows = rows[np.argsort(label[rows], kind="stable")]
        owner[rows] = np.repeat(np.tile(np.arange(len(sizes)), len(kinds)), got.T.ravel())
    return owner


def _choices(
    kinds: Ints, dealt: Ints, stock: Ints, settings: Partition, generator: np.random.Generator
) -> Ints:
    """Return the tasks or the category that each client's rows come from, int64 [clients, m]."""
    if settings.kind == "category":
        counts = apportion(stock.astype(np.float64), len(dealt))
        return generator.permutation(np.repeat(np.arange(len(kinds)), counts))[:, None]
    own: Ints = np.searchsorted(kinds, dealt)
    if settings.kind == "task":
        return own[:, None]
    # Client i shares the tasks given to clients i, i + 1, ...: every task's rows go out exactly.
    ring = np.arange(len(own))[:, None] + np.arange(settings.tasks_per_client)
    shared: Ints = own[ring % len(own)]
    return shared


def _quotas(choices: Ints, sizes: Ints, kinds: int) -> Ints:
    """Divide each client's size evenly among its `choices` [clients, m]; earlier ones get the remainder."""
    quotas = np.zeros((len(sizes), kinds), np.int64)
    count = choices.shape[1]
    for place in range(count):
        quotas[np.arange(len(sizes)), choices[:, place]] += sizes // count + (place < sizes % count)
    return quotas


def _dirichlet(
    alpha: float, prior: Ints, clients: int, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Draw each client's mix from Dirichlet(alpha x prior), the prior summing to one.

    Hsu, Qi and Brown 2019, arXiv 1909.06335, section 3.
    """
    mixes = np.empty((clients, len(prior)), np.float32)
    block = max(1, CELLS // len(prior))
    for start in range(0, clients, block):
        stop = min(start + block, clients)
        mixes[start:stop] = generator.dirichlet(alpha * prior / prior.sum(), size=stop - start)
    return mixes
