"""Clients from instances: who owns which rows of the pool.

`partition` takes the unseen tasks out, then makes clients in one of three ways: the pool's own
(natural), dealt at a level of heterogeneity (`dealt.py`), or by a partitioner of flwr-datasets
(`flower.py`). The result is an `Assignment`, which the store, the cohorts and the scores read.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedprofit.core.errors import UserError, nearest
from fedprofit.core.seeding import numpy_generator
from fedprofit.data.dealt import deal_pool
from fedprofit.data.flower import partition_with_flower
from fedprofit.data.pool import SPLITS
from fedprofit.data.settings import DataConfig
from fedprofit.data.sources.reading import SHOWN, Remark, listed, shown
from fedprofit.data.splits import TEST, TRAIN, Ints, cut, encode, make_splits, same_input

GROUPS = ("train", "validation", "test")
FEW_TESTS = 5  # a mean over fewer test examples says little of a client


@dataclass(frozen=True)
class Assignment:
    """Which rows of the pool each client owns, in compressed sparse row form."""

    clients: pa.StringArray  # names, sorted ascending, distinct
    groups: NDArray[np.int8]  # [clients]: 0 train, 1 validation, 2 test client
    indptr: Ints  # [3 * clients + 1]: client c's split s is rows[indptr[3c + s] : indptr[3c + s + 1]]
    rows: Ints  # row numbers of the pool, ascending within a client's split; no row twice
    unseen: Ints  # test rows of the tasks held out from every client, ascending
    remarks: tuple[Remark, ...] = ()  # who and what is set aside, unused, or has few test examples


def partition(pool: pa.Table, settings: DataConfig, seed: int) -> Assignment:
    """Make the clients that `settings` ask for; the same arguments give the same clients.

    The kinds task, category, tasks, dirichlet and iid use the same rows and the same client sizes as
    each other. The kinds natural and flwr take what the clients have, at most `examples` of it.

    Raises UserError: unknown unseen tasks, too few clients, too few rows of a task, a client without
    train rows, a validation or test client without test rows.
    """
    settings = _with_kind(settings)
    if settings.clients.train + settings.clients.validation + settings.clients.test == 0:
        raise UserError("data.clients asks for no client at all. Set data.clients.train to one or more.")
    tasks, task = encode(pool["task"])
    kind = settings.partition.kind
    split = make_splits(pool, seed, kind == "natural")
    tested = np.bincount(task[split == TEST], minlength=len(tasks)) > 0
    hidden = np.isin(task, _unseen_tasks(tasks, settings.unseen_tasks, tested, seed))
    unseen = np.flatnonzero(hidden & (split == TEST))
    if hidden.any() and not len(unseen):
        raise UserError(
            "data.unseen_tasks: the tasks held out have no test rows, so nothing can be scored on them. Name "
            "other tasks, or set it to 0."
        )
    if kind in ("natural", "flwr") and settings.partition.quantity_skew:
        raise UserError(
            f"data.partition.quantity_skew does not go with kind: {kind}, where the data decides how much "
            "each client has. Set quantity_skew to 0."
        )
    if kind in ("natural", "flwr") and settings.partition.hold_out != "all":
        raise UserError(
            f"data.partition.hold_out does not go with kind: {kind}, where clients have what they have. Set "
            "it to all."
        )
    if kind == "natural":
        names, owner = _natural(pool)
        owner = np.where(hidden, -1, owner)
        names, groups, client, rows, remarks = _choose_clients(names, owner, split, settings, seed)
    elif kind == "flwr":
        names, owner, split = _flower(pool, split, hidden, settings, seed)
        names, groups, client, rows, remarks = _choose_clients(names, owner, split, settings, seed)
    else:
        client, rows, remarks = deal_pool(pool, split, ~hidden, settings, seed)
        counts = (settings.clients.train, settings.clients.validation, settings.clients.test)
        names, groups = _numbered(sum(counts)), np.repeat(np.arange(3, dtype=np.int8), counts)
    made = _assemble(names, groups, client, split[rows], rows, unseen)
    return replace(made, remarks=(*remarks, *_few_tests(made, settings)))


def _with_kind(settings: DataConfig) -> DataConfig:
    """Replace kind auto: the source's own clients where it names a column of them, else one task each."""
    if settings.partition.kind != "auto":
        return settings
    columns = getattr(settings.source, "columns", None)
    kind = "natural" if columns is not None and columns.client else "task"
    return settings.model_copy(update={"partition": settings.partition.model_copy(update={"kind": kind})})


def task_mix(pool: pa.Table, assignment: Assignment) -> tuple[list[str], Ints]:
    """Return the tasks of the clients' train rows, sorted, and their counts, int64 [clients, tasks]."""
    lengths = np.diff(assignment.indptr)
    client, split = np.divmod(np.repeat(np.arange(len(lengths)), lengths), 3)
    train = split == TRAIN
    tasks, codes = encode(pool["task"].take(pa.array(assignment.rows[train])))
    flat = np.bincount(client[train] * len(tasks) + codes, minlength=len(assignment.clients) * len(tasks))
    return tasks, flat.reshape(len(assignment.clients), len(tasks))


def heterogeneity(counts: Ints) -> float:
    """Return the mean total-variation distance between a client's task mix and the pool's, 0 to 1.

    `counts` [clients, tasks], an array or a sparse one; the pool is the sum of the clients; clients without
    rows do not count.

    >>> heterogeneity(np.array([[4, 0], [0, 4]])), heterogeneity(np.array([[2, 2], [2, 2]]))
    (0.5, 0.0)
    """
    from scipy.sparse import coo_array  # here: a data set that is made already needs none

    entries = coo_array(counts)
    own, pooled = entries.sum(axis=1), entries.sum(axis=0) / entries.sum()
    share, usual = entries.data / own[entries.row], pooled[entries.col]
    # The shares of tasks that a client has none of are off by the pool's: by 1 less those that it has.
    off = np.bincount(entries.row, np.abs(share - usual) - usual, len(own))
    return float(0.5 * (1 + off[own > 0]).mean())


def _unseen_tasks(
    tasks: list[str], asked: int | tuple[str, ...], tested: NDArray[np.bool_], seed: int
) -> Ints:
    """Return the tasks held out: those named, or drawn by seed, first from those with test rows."""
    if isinstance(asked, int):
        if asked >= len(tasks):
            raise UserError(
                f"data.unseen_tasks is {asked}, and the source has {len(tasks)} tasks: none would be left "
                f"for the clients. Set it to {len(tasks) - 1}{' or less' * (len(tasks) > 1)}."
            )
        drawn = numpy_generator(seed, "unseen tasks").permutation(len(tasks))
        return drawn[np.argsort(~tested[drawn], kind="stable")][:asked]
    for name in asked:
        if name not in tasks:
            raise UserError(
                f"data.unseen_tasks: there is no task {name!r} in the source; {nearest(name, tasks)}"
            )
    if set(asked) == set(tasks):
        raise UserError("data.unseen_tasks names every task of the source: none would be left. Name fewer.")
    return np.array([tasks.index(name) for name in asked], np.int64)


def _natural(pool: pa.Table) -> tuple[list[str], Ints]:
    names, owner = encode(pool["client"])
    without = np.flatnonzero(owner < 0)
    if len(without):
        raise UserError(
            f"data.partition.kind: natural takes the source's own clients, and {len(without)} of its "
            f"{len(owner)} rows name none (the first is row {without[0] + 1}). Set "
            "data.source.columns.client, or choose another kind."
        )
    return names, owner


def _flower(
    pool: pa.Table, split: NDArray[np.int8], hidden: NDArray[np.bool_], settings: DataConfig, seed: int
) -> tuple[list[str], Ints, NDArray[np.int8]]:
    """Partition the rows that the pool gives no other split than train; cut each part by seed."""
    free = np.flatnonzero(~hidden & pc.fill_null(pc.equal(pool["split"], "train"), True).to_numpy())
    total = settings.clients.train + settings.clients.validation + settings.clients.test
    count, part = partition_with_flower(pool, free, settings.partition, total, seed)
    names, owner, split = _numbered(count), np.full(len(split), -1, np.int64), split.copy()
    owner[free] = part
    kept = np.flatnonzero(owner >= 0)
    split[kept] = cut(names, owner[kept], same_input(pool)[kept], seed, (True, True))
    return names, owner, split


def _numbered(count: int) -> list[str]:
    width = max(4, len(str(count - 1)))
    return [f"client-{number:0{width}d}" for number in range(count)]


def _set_aside_small(names: list[str], owner: Ints, least: int) -> tuple[list[str], Ints, list[Remark]]:
    """Leave out the clients with fewer than `least` rows."""
    sizes = np.bincount(owner[owner >= 0], minlength=len(names))
    small = sizes < least
    if not small.any():
        return names, owner, []
    position = np.where(small, -1, np.cumsum(~small) - 1)
    fewest = np.flatnonzero(small)
    each = listed(f"{shown(names[client])} ({sizes[client]})" for client in fewest)
    remark = ("clients set aside", f"{len(fewest)} with fewer than data.min_examples: {least}: {each}")
    kept = [name for name, out in zip(names, small.tolist(), strict=True) if not out]
    return kept, np.where(owner >= 0, position[owner], -1), [remark]


def _choose_clients(
    names: list[str], owner: Ints, split: NDArray[np.int8], settings: DataConfig, seed: int
) -> tuple[list[str], NDArray[np.int8], Ints, Ints, list[Remark]]:
    """Put clients into groups by seed, exactly as many as asked for; keep at most `examples` a split.

    Where there are enough of them, all have train rows, and validation and test clients have test rows.
    `owner` [rows] is a position in `names`, or -1. Returns the chosen names, their groups, and, aligned,
    the client and row of what they own; and who is left out.
    """
    names, owner, remarks = _set_aside_small(names, owner, settings.min_examples)
    wanted = (settings.clients.train, settings.clients.validation, settings.clients.test)
    if sum(wanted) > len(names):
        aside = f" (set aside: {remarks[0][1]})" if remarks else ""
        raise UserError(
            f"data.clients asks for {wanted[0]} train, {wanted[1]} validation and {wanted[2]} test clients, "
            f"{sum(wanted)} together, and there are {len(names)}{aside}. Lower data.clients"
            f"{' or data.min_examples' if remarks else ''}."
        )
    has = np.zeros((len(names) + 1, 3), bool)  # the last is found by owner -1
    has[owner, split] = True
    group = np.full(len(names) + 1, -1, np.int8)
    shuffled = numpy_generator(seed, "client groups").permutation(len(names))
    group[_draw(shuffled, has, wanted)] = np.repeat(np.arange(3, dtype=np.int8), wanted)
    chosen = np.flatnonzero(group >= 0)
    unused = np.flatnonzero(group[:-1] < 0)
    if len(unused):
        each = listed((shown(names[client]) for client in unused[:SHOWN]), len(unused))
        text = f"{len(unused)} of {len(names)}, as data.clients asks for {sum(wanted)}: {each}"
        remarks.append(("clients not used", text))
    rows = np.flatnonzero(group[owner] >= 0)
    client = np.searchsorted(chosen, owner[rows])
    if settings.examples is not None:
        drawn = numpy_generator(seed, "examples").random(len(rows))
        cell = client * 3 + split[rows]
        order = np.lexsort((drawn, cell))
        count = np.bincount(cell, minlength=3 * len(chosen))
        position = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
        most = np.array([settings.examples.train, settings.examples.validation, settings.examples.test])
        order = order[position < most[split[rows[order]]]]
        client, rows = client[order], rows[order]
    return [names[position] for position in chosen], group[chosen], client, rows, remarks


def _draw(shuffled: Ints, has: NDArray[np.bool_], wanted: tuple[int, int, int]) -> Ints:
    """Choose train, validation and test clients, in this order; `has` [clients, splits] tells their rows.

    If too few have the rows that they need, those that come first are taken, whatever they have.
    """
    trained = shuffled[has[shuffled, TRAIN]]
    behind = np.roll(trained, -wanted[0])  # those first that have their turn after the train clients
    scored = behind[has[behind, TEST]][: wanted[1] + wanted[2]]
    others = trained[~np.isin(trained, scored)][: wanted[0]]
    chosen = np.concatenate([others, scored])
    return chosen if len(chosen) == sum(wanted) else shuffled[: sum(wanted)]


def _few_tests(made: Assignment, settings: DataConfig) -> list[Remark]:
    """Name the clients with so few test examples that their scores say little."""
    tests = np.diff(made.indptr).reshape(-1, 3)[:, TEST]
    few = tests < FEW_TESTS
    if settings.partition.hold_out == "scored":  # train clients have none, as asked
        few &= made.groups != GROUPS.index("train")
    found = np.flatnonzero(few)
    if not len(found):
        return []
    each = (
        f"{shown(made.clients[int(client)].as_py())} ({GROUPS[made.groups[client]]}: {tests[client]})"
        for client in found[:SHOWN]
    )
    text = f"{len(found)} of {len(few)} clients have fewer than {FEW_TESTS}: {listed(each, len(found))}"
    return [("few test examples", text)]


def _assemble(
    names: list[str],
    groups: NDArray[np.int8],
    client: Ints,
    split: NDArray[np.int8],
    rows: Ints,
    unseen: Ints,
) -> Assignment:
    cell = client * 3 + split
    count = np.bincount(cell, minlength=3 * len(names)).reshape(-1, 3)
    lacking = {TRAIN: count[:, TRAIN] == 0, TEST: (groups > 0) & (count[:, TEST] == 0)}
    for which, bad in lacking.items():
        if bad.any():
            first = int(np.argmax(bad))
            raise UserError(
                f"client {names[first]!r} (a {GROUPS[groups[first]]} client) has no {SPLITS[which]} "
                f"rows; {int(bad.sum())} of {len(names)} clients have none. Every client needs train rows, "
                "and validation and test clients need test rows: leave such clients out of the source, or "
                "set data.min_examples, data.examples and data.clients so that each gets some."
            )
    return Assignment(
        clients=pa.array(names, pa.string()),
        groups=groups,
        indptr=np.concatenate([[0], np.cumsum(count.ravel())]).astype(np.int64),
        rows=rows[np.lexsort((rows, cell))],
        unseen=unseen,
    )
