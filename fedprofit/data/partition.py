"""Assignment of the pool's rows to clients.

`partition` sets the unseen tasks aside; a component of the family "partition" then makes clients
(`partitions/`). The store, the cohorts and the scores read the resulting `Assignment`.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedprofit.core.errors import UserError, nearest
from fedprofit.core.seeding import numpy_generator
from fedprofit.data.clients import Owners
from fedprofit.data.pool import SPLITS
from fedprofit.data.settings import DataConfig
from fedprofit.data.splits import TEST, TRAIN, Ints, encode, make_splits, unseen_rows
from fedprofit.data.tables.reading import SHOWN, Remark, listed, shown

GROUPS = ("train", "validation", "test")
FEW_TESTS = 5  # the mean over fewer test examples is too uncertain


@dataclass(frozen=True)
class Assignment:
    """Which rows of the pool each client owns, in compressed sparse row form."""

    clients: pa.StringArray  # names, sorted ascending, distinct
    groups: NDArray[np.int8]  # [clients]: 0 train, 1 validation, 2 test client
    indptr: Ints  # [3 * clients + 1]: client c's split s is rows[indptr[3c + s] : indptr[3c + s + 1]]
    rows: Ints  # row numbers of the pool, ascending within a client's split; no row twice
    unseen: Ints  # test rows of the tasks held out from every client, ascending
    remarks: tuple[Remark, ...] = ()  # clients and tasks set aside, unused, or with few test examples


def partition(pool: pa.Table, settings: DataConfig, seed: int) -> Assignment:
    """Make the clients of the settings; deterministic in the arguments.

    Raises:
        UserError: unknown unseen tasks, too few clients, too few rows of a task, a client without train rows,
            a validation or test client without test rows.
    """
    chosen = settings.partition.resolve(settings.source)
    if settings.clients.train + settings.clients.validation + settings.clients.test == 0:
        raise UserError("data.clients asks for no clients. Set data.clients.train to one or more.")
    split = make_splits(pool, seed, chosen.splits_by_client)
    hidden = _hidden_rows(pool, split, settings, seed)
    unseen = np.flatnonzero(hidden & (split == TEST))
    if hidden.any() and not len(unseen):
        raise UserError(
            "data.unseen_tasks: the held-out tasks have no test rows to score. Name "
            "other tasks, or set it to 0."
        )
    owners = chosen.owners(pool, split, hidden, settings, seed)
    made = _assemble(owners, unseen)
    return replace(made, remarks=(*owners.remarks, *_few_tests(made, chosen.spares_train_clients)))


def _hidden_rows(
    pool: pa.Table, split: NDArray[np.int8], settings: DataConfig, seed: int
) -> NDArray[np.bool_]:
    """Return the rows that no client may own: of unseen tasks, and those that the source marks unseen."""
    tasks, task = encode(pool["task"])
    foreign = unseen_rows(pool)
    shared = np.intersect1d(task[foreign], task[~foreign])
    if len(shared):
        raise UserError(
            f"data.source: rows that are unseen are of the task {tasks[shared[0]]!r}, and so are rows of "
            "clients. Give the unseen rows tasks that no client has."
        )
    tested = np.bincount(task[(split == TEST) & ~foreign], minlength=len(tasks)) > 0
    if not foreign.any():
        return np.isin(task, _unseen_tasks(tasks, settings.unseen_tasks, tested, seed))
    if settings.unseen_tasks not in (0, ()):
        raise UserError(
            "data.unseen_tasks: the source names its unseen rows itself. Set data.unseen_tasks to 0."
        )
    return foreign


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

    `counts` [clients, tasks] is a dense or sparse array. The pool is the sum of the clients. Clients without
    rows do not count.

    >>> heterogeneity(np.array([[4, 0], [0, 4]])), heterogeneity(np.array([[2, 2], [2, 2]]))
    (0.5, 0.0)
    """
    from scipy.sparse import coo_array  # here: not needed for an existing data set

    entries = coo_array(counts)
    own, pooled = entries.sum(axis=1), entries.sum(axis=0) / entries.sum()
    share, usual = entries.data / own[entries.row], pooled[entries.col]
    # Tasks that a client lacks differ by the pool's shares; these sum to 1 minus those of its tasks.
    off = np.bincount(entries.row, np.abs(share - usual) - usual, len(own))
    return float(0.5 * (1 + off[own > 0]).mean())


def _unseen_tasks(
    tasks: list[str], asked: int | tuple[str, ...], tested: NDArray[np.bool_], seed: int
) -> Ints:
    """Return the held-out tasks: the named ones, or tasks drawn by seed, first those with test rows."""
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


def _few_tests(made: Assignment, spares_train_clients: bool) -> list[Remark]:
    """Name the clients with so few test examples that their scores are uncertain."""
    tests = np.diff(made.indptr).reshape(-1, 3)[:, TEST]
    few = tests < FEW_TESTS
    if spares_train_clients:  # they have none, as asked
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


def _assemble(owners: Owners, unseen: Ints) -> Assignment:
    """Sort the clients' rows. Raise UserError for a client that lacks required rows."""
    names, groups, rows = owners.names, owners.groups, owners.rows
    cell = owners.client * 3 + owners.split[rows]
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
