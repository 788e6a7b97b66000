"""Codes for names, and train, validation and test splits for rows without one."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedprofit.core.seeding import numpy_generator
from fedprofit.data.pool import GROUP, SPLITS, UNSEEN

Ints = NDArray[np.int64]
TRAIN, VALIDATION, TEST = range(3)  # positions in SPLITS


def encode(column: pa.ChunkedArray) -> tuple[list[str], Ints]:
    """Return a text column's distinct values, sorted, and each row's position among them (null: -1).

    >>> encode(pa.chunked_array([["b", "a", None, "b"]]))
    (['a', 'b'], array([ 1,  0, -1,  1]))
    """
    values, found = codes(column)
    order = pc.sort_indices(values).to_numpy()
    rank = np.full(len(order) + 1, -1, np.int64)  # the last is found by code -1: null
    rank[order] = np.arange(len(order))
    return values.take(pa.array(order)).to_pylist(), rank[found]


def codes(column: pa.ChunkedArray) -> tuple[pa.Array, Ints]:
    """Return a text column's distinct values and each row's position among them (null: -1)."""
    # Long texts of many rows exceed 2 GiB: 64-bit offsets. Unifying dictionaries of chunks takes much longer.
    encoded = column.cast(pa.large_string()).combine_chunks().dictionary_encode()
    return encoded.dictionary, np.asarray(pc.fill_null(encoded.indices, -1).to_numpy(), np.int64)


def shuffled_positions(names: list[str], sizes: NDArray[Any], seed: int, purpose: str) -> Ints:
    """Return a permutation of each group's positions, one group after another.

    Each draw depends on seed, purpose and name only, not on the other groups.
    """
    drawn = [
        numpy_generator(seed, purpose, name).permutation(size)
        for name, size in zip(names, sizes.tolist(), strict=True)
    ]
    return np.concatenate(drawn) if drawn else np.empty(0, np.int64)


def cut(names: list[str], groups: Ints, keys: Ints, seed: int, wanted: tuple[bool, bool]) -> NDArray[np.int8]:
    """Cut the rows of each group by seed: a fifth to validation, a fifth to test, the rest to train.

    Of three or more distinct keys each split gets at least one; of two, train and test; a single one goes
    to train.

    Args:
        names: the groups.
        groups: each row's group as a position in `names`, `[rows]`.
        keys: equal for rows of a group that must stay together, `[rows]`.
        seed: seed of all draws.
        wanted: whether validation and test are cut.
    """
    pairs = groups * (keys.max(initial=0) + 1) + keys
    _, first, unit_of_row = np.unique(pairs, return_index=True, return_inverse=True)
    unit_group = groups[first]
    order = np.lexsort((first, unit_group))  # by first appearance: independent of other groups' keys
    sizes = np.bincount(unit_group, minlength=len(names))
    position = np.empty(len(order), np.int64)
    position[order] = shuffled_positions(names, sizes, seed, "splits")
    fifth = np.where(sizes >= 3, np.maximum(1, (sizes + 2) // 5), 0)
    test = np.where(sizes == 2, 1, fifth) * wanted[1]
    validation = fifth * wanted[0]
    split = np.where(position < (test + validation)[unit_group], VALIDATION, TRAIN)
    split = np.where(position < test[unit_group], TEST, split)
    return split[unit_of_row].astype(np.int8)


def make_splits(pool: pa.Table, seed: int, natural: bool) -> NDArray[np.int8]:
    """Return each row's split, `[rows]`: its own, or one drawn by seed.

    Rows without a split are cut 60/20/20: within their client if clients are the pool's own (`natural`), else
    within their task. Equal inputs of a task stay together, within the client or the pool. If every row has a
    split but none is validation (or test), a fifth of the train rows becomes validation (or test).
    """
    named = pc.fill_null(pc.index_in(pool["split"], value_set=pa.array(SPLITS)), -1)
    split: NDArray[np.int8] = np.array(named.to_numpy(), np.int8)
    made, wanted = split < 0, (True, True)
    if not made.any():
        wanted = (VALIDATION not in split, TEST not in split)
        made = split == TRAIN if any(wanted) else made
    if not made.any():
        return split
    owned = natural and pool["client"].filter(pa.array(made)).null_count == 0
    by = "client" if owned else "task"
    names, groups = encode(pool[by])
    split[made] = cut(names, groups[made], same_input(pool)[made], seed, wanted)
    return split


def unseen_rows(pool: pa.Table) -> NDArray[np.bool_]:
    """Return which rows the source marks unseen, `[rows]`."""
    if GROUP.name not in pool.column_names:
        return np.zeros(pool.num_rows, bool)
    unseen = pc.fill_null(pc.equal(pool[GROUP.name], UNSEEN), False)
    return np.asarray(unseen.to_numpy(), bool)


def same_input(pool: pa.Table) -> Ints:
    """Return a number for each row, equal for equal task and input; white space around inputs is ignored."""
    _, inputs = codes(pc.utf8_trim_whitespace(pool["input"]))
    _, tasks = codes(pool["task"])
    _, keys = np.unique(tasks * (inputs.max() + 1) + inputs, return_inverse=True)
    return np.asarray(keys, np.int64)
