"""Generated clients: the rows of each group, and the number of rows per client.

Tasks are given to the clients of a group in turn, in a seeded order. A group uses as many rows of a task as
the clients with this task need. This does not depend on the level of heterogeneity: levels differ only in how
they assign these rows.

A rare task does not fail a study. If tasks have too few rows for their clients, the task with the fewest rows
is set aside and the others are distributed anew, until all have enough. At least half of the tasks are kept;
if that is not enough, the user must change the settings.
"""

from typing import ClassVar, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedprofit.config.component import where_of
from fedprofit.core.errors import UserError
from fedprofit.core.seeding import numpy_generator
from fedprofit.data.clients import ClientSettings
from fedprofit.data.deal import Stock, apportion
from fedprofit.data.pool import SPLITS
from fedprofit.data.splits import TRAIN, Ints, encode, shuffled_positions
from fedprofit.data.tables.reading import Remark, listed, shown


class Level(Protocol):
    """The interface of a level of heterogeneity; `partitions/base.py` documents its members."""

    kind: ClassVar[str]
    quantity_skew: float

    @property
    def label(self) -> str:
        """The column by which rows are dealt: task or category."""
        ...

    @property
    def tasks_each(self) -> int:
        """The minimum number of tasks of a client."""
        ...

    @property
    def spares_train_clients(self) -> bool:
        """Whether train clients get no validation and test rows."""
        ...

    def assign(self, stock: Stock, generator: np.random.Generator) -> Ints:
        """Return the client that gets each row of a group's stock, `[rows]`."""
        ...

    @classmethod
    def is_built_in(cls) -> bool:
        """Return whether the class is a part of this package."""
        ...


class TooFewRows(UserError):
    """Tasks have too few rows for their clients."""

    def __init__(self, message: str, tasks: Ints) -> None:
        """Store the message and the tasks' numbers."""
        super().__init__(message)
        self.tasks = tasks


def deal_pool(
    pool: pa.Table,
    split: NDArray[np.int8],
    seen: NDArray[np.bool_],
    settings: ClientSettings,
    level: Level,
    seed: int,
) -> tuple[Ints, Ints, list[Remark]]:
    """Make the clients of all three groups, numbered train first, then validation, then test.

    Every group starts with the first task of the order. Therefore test clients' tasks are train clients'
    tasks if there are at least as many train clients.

    Args:
        pool: all rows.
        split: each row's split, `[rows]`.
        seen: rows that clients may own, `[rows]`.
        settings: how many clients and examples.
        level: assigns rows to clients.
        seed: seed of all draws.

    Returns:
        Aligned, the client (as a position) and the row of each owned row; and the tasks that were set aside.

    Raises:
        UserError: too few rows of a task, more tasks a client than there are, no categories.
    """
    names, task = encode(pool["task"])
    labels = _labels(pool, task, level)
    stock = np.bincount((task * 3 + split)[seen], minlength=3 * len(names)).reshape(-1, 3)
    order = numpy_generator(seed, "task order").permutation(np.flatnonzero(stock.any(axis=1)))
    if level.tasks_each > len(order):
        raise UserError(
            f"data.partition.tasks_per_client is {level.tasks_each}, and there are {len(order)} tasks for "
            f"the clients. Set it to {len(order)} or less."
        )
    counts = (settings.clients.train, settings.clients.validation, settings.clients.test)
    given, sizes, rare = _give_tasks(order, stock, names, settings, level, seed)
    clients, rows = [], _rows_in_use(names, task, split, seen, given, sizes, seed)
    for group, (used, tasks, size) in enumerate(zip(rows, given, sizes, strict=True)):
        generator = numpy_generator(seed, "deal", group)
        owner = _assigned(level, labels[used], split[used], tasks, size, generator)
        clients.append(owner + sum(counts[:group]))
    remarks = [("tasks set aside", _describe_rare(rare, stock, names, len(order)))] if rare else []
    return np.concatenate(clients), np.concatenate(rows), remarks


def _assigned(
    level: Level,
    labels: Ints,
    split: NDArray[np.int8],
    tasks: Ints,
    sizes: Ints,
    generator: np.random.Generator,
) -> Ints:
    """Let a level assign a group's rows. Raise UserError if clients do not get the required sizes."""
    if not len(labels):
        return np.empty(0, np.int64)
    present, label = np.unique(labels, return_inverse=True)
    given = np.minimum(np.searchsorted(present, tasks), len(present) - 1)
    given = given if level.label == "task" else np.full(len(tasks), -1)
    owner = level.assign(Stock(label, split, given, sizes), generator)
    if level.is_built_in():
        return owner
    whose = f"data.partition.kind: {level.kind} ({where_of(type(level))}): assign()"
    owner = np.asarray(owner)
    if owner.shape != label.shape or owner.dtype.kind not in "iu":
        raise UserError(
            f"{whose} returned {owner.dtype} {list(owner.shape)}. Return the client of each of the "
            f"{len(label)} rows, as an integer."
        )
    if owner.min() < 0 or owner.max() >= len(sizes):
        raise UserError(
            f"{whose} named the client {owner.min() if owner.min() < 0 else owner.max()}, and clients are 0 "
            f"to {len(sizes) - 1}. Correct it."
        )
    got = np.bincount(owner * 3 + split, minlength=3 * len(sizes)).reshape(-1, 3)
    wrong = np.argwhere(got != sizes)
    if len(wrong):
        client, s = wrong[0]
        raise UserError(
            f"{whose} gave client {client} {got[client, s]} {SPLITS[s]} rows, and its size is "
            f"{sizes[client, s]}. All levels use the same sizes: Stock.by_mix and Stock.by_choice keep them."
        )
    return owner.astype(np.int64)


def _give_tasks(
    order: Ints, stock: Ints, names: list[str], settings: ClientSettings, level: Level, seed: int
) -> tuple[list[Ints], list[Ints], list[int]]:
    """Return the task given to each client of each group, the clients' sizes, and the tasks set aside."""
    counts = (settings.clients.train, settings.clients.validation, settings.clients.test)
    least, rare = max(level.tasks_each, (len(order) + 1) // 2), list[int]()
    first: TooFewRows | None = None
    while True:
        given = [order[np.arange(count) % len(order)] for count in counts]
        try:
            return given, client_sizes(given, stock, names, settings, level, seed), rare
        except TooFewRows as error:
            first = first or error
            if len(order) <= least:
                raise first from None
            rare.append(int(error.tasks[np.argmin(stock[error.tasks].sum(axis=1))]))
            order = order[order != rare[-1]]


def _describe_rare(rare: list[int], stock: Ints, names: list[str], tasks: int) -> str:
    each = listed(f"{shown(names[task])} ({stock[task].sum()} rows)" for task in rare)
    return f"{len(rare)} of {tasks}, with too few rows for the clients that would be given them: {each}"


def _labels(pool: pa.Table, task: Ints, level: Level) -> Ints:
    if level.label == "task":
        return task
    categories, labels = encode(pool["category"])
    if categories == [""]:
        raise UserError(
            f"data.partition.kind: {level.kind} deals by category, and the source names none. Set "
            "data.source.columns.category, or choose another kind."
        )
    return labels


def _rows_in_use(
    names: list[str],
    task: Ints,
    split: NDArray[np.int8],
    seen: NDArray[np.bool_],
    given: list[Ints],
    sizes: list[Ints],
    seed: int,
) -> list[Ints]:
    """Draw the rows of each group; no row is in two groups."""
    rows = np.flatnonzero(seen)
    rows = rows[np.argsort(task[rows], kind="stable")]
    position = shuffled_positions(names, np.bincount(task[rows], minlength=len(names)), seed, "stock")
    # The rows of each task and split are one shuffled stretch, from which the groups take in turn.
    cell = task[rows] * 3 + split[rows]
    order = np.lexsort((position, cell))
    rows, start = rows[order], np.searchsorted(cell[order], np.arange(3 * len(names)))
    taken = []
    for tasks, size in zip(given, sizes, strict=True):
        used = np.zeros((len(names), 3), np.int64)
        np.add.at(used, tasks, size)
        length = used.ravel()
        stretch = np.repeat(start - (np.cumsum(length) - length), length)
        taken.append(rows[stretch + np.arange(length.sum())])
        start = start + length
    return taken


def client_sizes(
    given: list[Ints], stock: Ints, names: list[str], settings: ClientSettings, level: Level, seed: int
) -> list[Ints]:
    """Return the number of rows of each split for each client of each group.

    Without `data.examples` the clients of a task share its rows evenly. Quantity skew draws log-normal sizes
    and rescales them to the same total, at least one row each; the three splits of a client are scaled
    equally.

    Args:
        given: for each group, each client's task.
        stock: number of rows, `[tasks, 3]`.
        names: the tasks' names.
        settings: numbers of examples.
        level: the partition; it determines the skew and the clients with held-out rows.
        seed: seed of all draws.

    Returns:
        For each group `[clients, 3]`.

    Raises:
        UserError: a task with too few rows; skew without `data.examples`.
    """
    skew = level.quantity_skew
    holds = np.ones((3, 3), np.int64)  # [groups, splits]
    if level.spares_train_clients:
        holds[TRAIN, 1:] = 0
    if settings.examples is None:
        if skew:
            raise UserError(
                f"data.partition.quantity_skew is {skew} and data.examples is null: some sizes would need "
                "more rows of a task than there are. Set data.examples, or quantity_skew to 0."
            )
        counts = np.stack([np.bincount(tasks, minlength=len(names)) for tasks in given])  # [groups, tasks]
        holders = counts.T @ holds
        scored = (counts[1:].sum(axis=0) > 0)[:, None]  # these clients need test rows too
        needed = np.where(scored, [1, 0, 1], [1, 0, 0])
        _enough(holders * needed, stock, names, settings, skew)
        share = stock // np.maximum(holders, 1)
        return [share[tasks] * own for tasks, own in zip(given, holds, strict=True)]
    each = np.array([settings.examples.train, settings.examples.validation, settings.examples.test], np.int64)
    sizes = [np.tile(each * own, (len(tasks), 1)) for tasks, own in zip(given, holds, strict=True)]
    if skew:
        for group, size in enumerate(sizes):
            drawn = np.exp(skew * numpy_generator(seed, "client sizes", group).standard_normal(len(size)))
            for split in np.flatnonzero(each * holds[group]) if len(size) else []:
                size[:, split] = 1 + apportion(drawn, len(size) * int(each[split] - 1))
    asked = np.zeros_like(stock)
    for tasks, size in zip(given, sizes, strict=True):
        np.add.at(asked, tasks, size)
    _enough(asked, stock, names, settings, skew)
    return sizes


def _enough(asked: Ints, stock: Ints, names: list[str], settings: ClientSettings, skewed: float) -> None:
    task, split = np.unravel_index(
        np.argmax(asked - stock), stock.shape
    )  # the task with the largest shortage
    if asked[task, split] > stock[task, split]:
        skew = ", data.partition.quantity_skew" if skewed else ""
        examples = f"data.examples.{SPLITS[split]}" if settings.examples else ""
        lower = ", ".join(filter(None, [examples, "data.clients" + skew]))
        message = (
            f"task {names[task]!r} has {stock[task, split]} {SPLITS[split]} rows, and "
            f"{asked[task, split]} are needed by the clients of the three groups together. Lower {lower}, "
            "or let the source give more tasks or more instances of a task."
        )
        raise TooFewRows(message, np.flatnonzero((asked > stock).any(axis=1)))
