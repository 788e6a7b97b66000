"""Clients that are made: which rows each group of them uses, and how many each client gets.

Tasks are given to the clients of a group in turn, in an order by seed; a group uses as many rows of a
task as the clients that were given it need. This does not depend on the level of heterogeneity, which
`deal.py` then brings about with these very rows, so that levels differ in nothing else.

A rare task does not end a study: where a task has too few rows for the clients that would be given it, the
task with the fewest rows among such tasks is set aside and the others are given again, until all have
enough. At least half of the tasks stay; where that is not enough, the shortage is the user's to mend.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedprofit.core.errors import UserError
from fedprofit.core.seeding import numpy_generator
from fedprofit.data.deal import apportion, deal_rows
from fedprofit.data.pool import SPLITS
from fedprofit.data.settings import DataConfig
from fedprofit.data.sources.reading import Remark, listed, shown
from fedprofit.data.splits import TRAIN, Ints, encode, shuffled_positions


class TooFewRows(UserError):
    """Tasks have too few rows for the clients that they are given to."""

    def __init__(self, message: str, tasks: Ints) -> None:
        """Take the message, and the tasks' numbers."""
        super().__init__(message)
        self.tasks = tasks


def deal_pool(
    pool: pa.Table, split: NDArray[np.int8], seen: NDArray[np.bool_], settings: DataConfig, seed: int
) -> tuple[Ints, Ints, list[Remark]]:
    """Make the clients of all three groups, numbered train first, then validation, then test.

    `split` [rows] and `seen` [rows] (not of an unseen task) go with the pool's rows. Every group starts
    from the first task of the order, so test clients' tasks are among the train clients' where there
    are as many of these. Returns, aligned, the client (as a position) and the row of what they own; and
    which tasks were set aside.

    Raises UserError: too few rows of a task, more tasks a client than there are, no categories.
    """
    names, task = encode(pool["task"])
    labels = _labels(pool, task, settings)
    stock = np.bincount((task * 3 + split)[seen], minlength=3 * len(names)).reshape(-1, 3)
    order = numpy_generator(seed, "task order").permutation(np.flatnonzero(stock.any(axis=1)))
    each = settings.partition.tasks_per_client
    if settings.partition.kind == "tasks" and each > len(order):
        raise UserError(
            f"data.partition.tasks_per_client is {each}, and there are {len(order)} tasks for the clients. "
            f"Set it to {len(order)} or less."
        )
    counts = (settings.clients.train, settings.clients.validation, settings.clients.test)
    dealt, sizes, rare = _give_tasks(order, stock, names, settings, seed)
    clients, rows = [], _rows_in_use(names, task, split, seen, dealt, sizes, seed)
    for group, (used, given, size) in enumerate(zip(rows, dealt, sizes, strict=True)):
        generator = numpy_generator(seed, "deal", group)
        owner = deal_rows(labels[used], split[used], given, size, settings.partition, generator)
        clients.append(owner + sum(counts[:group]))
    remarks = [("tasks set aside", _describe_rare(rare, stock, names, len(order)))] if rare else []
    return np.concatenate(clients), np.concatenate(rows), remarks


def _give_tasks(
    order: Ints, stock: Ints, names: list[str], settings: DataConfig, seed: int
) -> tuple[list[Ints], list[Ints], list[int]]:
    """Return the task given to each client of each group, the clients' sizes, and the tasks set aside."""
    counts = (settings.clients.train, settings.clients.validation, settings.clients.test)
    each = settings.partition.tasks_per_client if settings.partition.kind == "tasks" else 1
    least, rare = max(each, (len(order) + 1) // 2), list[int]()
    first: TooFewRows | None = None
    while True:
        dealt = [order[np.arange(count) % len(order)] for count in counts]
        try:
            return dealt, client_sizes(dealt, stock, names, settings, seed), rare
        except TooFewRows as error:
            first = first or error
            if len(order) <= least:
                raise first from None
            rare.append(int(error.tasks[np.argmin(stock[error.tasks].sum(axis=1))]))
            order = order[order != rare[-1]]


def _describe_rare(rare: list[int], stock: Ints, names: list[str], tasks: int) -> str:
    each = listed(f"{shown(names[task])} ({stock[task].sum()} rows)" for task in rare)
    return f"{len(rare)} of {tasks}, with too few rows for the clients that would be given them: {each}"


def _labels(pool: pa.Table, task: Ints, settings: DataConfig) -> Ints:
    partition = settings.partition
    if partition.kind != "category" and (partition.kind != "dirichlet" or partition.over == "task"):
        return task
    categories, labels = encode(pool["category"])
    if categories == [""]:
        raise UserError(
            f"data.partition.kind: {partition.kind} deals by category, and the source names none. Set "
            "data.source.columns.category, or choose another kind."
        )
    return labels


def _rows_in_use(
    names: list[str],
    task: Ints,
    split: NDArray[np.int8],
    seen: NDArray[np.bool_],
    dealt: list[Ints],
    sizes: list[Ints],
    seed: int,
) -> list[Ints]:
    """Choose by seed the rows that each group uses; no row is in two groups."""
    rows = np.flatnonzero(seen)
    rows = rows[np.argsort(task[rows], kind="stable")]
    position = shuffled_positions(names, np.bincount(task[rows], minlength=len(names)), seed, "stock")
    # Each task and split becomes one stretch, shuffled; the groups take from it one after another.
    cell = task[rows] * 3 + split[rows]
    order = np.lexsort((position, cell))
    rows, start = rows[order], np.searchsorted(cell[order], np.arange(3 * len(names)))
    taken = []
    for given, size in zip(dealt, sizes, strict=True):
        used = np.zeros((len(names), 3), np.int64)
        np.add.at(used, given, size)
        length = used.ravel()
        stretch = np.repeat(start - (np.cumsum(length) - length), length)
        taken.append(rows[stretch + np.arange(length.sum())])
        start = start + length
    return taken


def client_sizes(
    dealt: list[Ints], stock: Ints, names: list[str], settings: DataConfig, seed: int
) -> list[Ints]:
    """Return how many rows of each split each client of each group gets, a list of int64 [clients, 3].

    `dealt` holds, for each group, the task given to each client; `stock` [tasks, 3] how many rows there
    are. Without `examples` the clients that were given a task share its rows evenly. Quantity skew
    draws sizes log-normally and rescales them to the same total, one row at least; the three splits
    of a client are scaled alike. With hold_out: scored, train clients get train rows alone.

    Raises UserError: a task with too few rows; skew without `examples`.
    """
    skew = settings.partition.quantity_skew
    holds = np.ones((3, 3), np.int64)  # [groups, splits]
    if settings.partition.hold_out == "scored":
        holds[TRAIN, 1:] = 0
    if settings.examples is None:
        if skew:
            raise UserError(
                f"data.partition.quantity_skew is {skew} and data.examples is null: some sizes would need "
                "more rows of a task than there are. Set data.examples, or quantity_skew to 0."
            )
        counts = np.stack([np.bincount(tasks, minlength=len(names)) for tasks in dealt])  # [groups, tasks]
        holders = counts.T @ holds
        scored = (counts[1:].sum(axis=0) > 0)[:, None]  # these clients need test rows too
        needed = np.where(scored, [1, 0, 1], [1, 0, 0])
        _enough(holders * needed, stock, names, settings)
        share = stock // np.maximum(holders, 1)
        return [share[tasks] * own for tasks, own in zip(dealt, holds, strict=True)]
    each = np.array([settings.examples.train, settings.examples.validation, settings.examples.test], np.int64)
    sizes = [np.tile(each * own, (len(tasks), 1)) for tasks, own in zip(dealt, holds, strict=True)]
    if skew:
        for group, size in enumerate(sizes):
            drawn = np.exp(skew * numpy_generator(seed, "client sizes", group).standard_normal(len(size)))
            for split in np.flatnonzero(each * holds[group]) if len(size) else []:
                size[:, split] = 1 + apportion(drawn, len(size) * int(each[split] - 1))
    asked = np.zeros_like(stock)
    for tasks, size in zip(dealt, sizes, strict=True):
        np.add.at(asked, tasks, size)
    _enough(asked, stock, names, settings)
    return sizes


def _enough(asked: Ints, stock: Ints, names: list[str], settings: DataConfig) -> None:
    task, split = np.unravel_index(np.argmax(asked - stock), stock.shape)  # where most are missing
    if asked[task, split] > stock[task, split]:
        skew = ", data.partition.quantity_skew" if settings.partition.quantity_skew else ""
        examples = f"data.examples.{SPLITS[split]}" if settings.examples else ""
        lower = ", ".join(filter(None, [examples, "data.clients" + skew]))
        message = (
            f"task {names[task]!r} has {stock[task, split]} {SPLITS[split]} rows, and "
            f"{asked[task, split]} are asked for by the clients of the three groups together. Lower {lower}, "
            "or let the source give more tasks or more instances of a task."
        )
        raise TooFewRows(message, np.flatnonzero((asked > stock).any(axis=1)))
