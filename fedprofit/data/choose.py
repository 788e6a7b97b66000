"""Choice of the train, validation and test clients among given clients, and of their rows."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fedprofit.config.component import Component, where_of
from fedprofit.core.errors import UserError
from fedprofit.core.seeding import numpy_generator
from fedprofit.data.clients import ClientSettings, Owners
from fedprofit.data.pool import GROUP, SPLITS
from fedprofit.data.splits import TEST, TRAIN, Ints
from fedprofit.data.tables.reading import SHOWN, Remark, listed, shown


def _set_aside_small(
    names: list[str], owner: Ints, named: Ints | None, least: int
) -> tuple[list[str], Ints, Ints | None, list[Remark]]:
    """Exclude the clients with fewer than `least` rows."""
    sizes = np.bincount(owner[owner >= 0], minlength=len(names))
    small = sizes < least
    if not small.any():
        return names, owner, named, []
    position = np.where(small, -1, np.cumsum(~small) - 1)
    fewest = np.flatnonzero(small)
    each = listed(f"{shown(names[client])} ({sizes[client]})" for client in fewest)
    remark = ("clients set aside", f"{len(fewest)} with fewer than data.min_examples: {least}: {each}")
    kept = [name for name, out in zip(names, small.tolist(), strict=True) if not out]
    return kept, np.where(owner >= 0, position[owner], -1), None if named is None else named[~small], [remark]


def choose_clients(
    names: list[str],
    owner: Ints,
    split: NDArray[np.int8],
    named: Ints | None,
    settings: ClientSettings,
    seed: int,
) -> Owners:
    """Draw the requested number of clients of each group; keep at most `data.examples` rows per split.

    Clients with the required rows come first: all need train rows, validation and test clients test rows.

    Args:
        names: the clients.
        owner: each row's client as a position in `names`, -1 for none, `[rows]`.
        split: each row's split, `[rows]`.
        named: the group that the source names for each client, `[clients]`; None if it names none.
        settings: how many clients and examples.
        seed: seed of all draws.
    """
    names, owner, named, remarks = _set_aside_small(names, owner, named, settings.min_examples)
    wanted = (settings.clients.train, settings.clients.validation, settings.clients.test)
    _check_enough(wanted, names, named, remarks)
    has = np.zeros((len(names) + 1, 3), bool)  # the last is found by owner -1
    has[owner, split] = True
    group = np.full(len(names) + 1, -1, np.int8)
    shuffled = numpy_generator(seed, "client groups").permutation(len(names))
    drawn = _draw(shuffled, has, wanted) if named is None else _draw_named(shuffled, has, wanted, named)
    group[drawn] = np.repeat(np.arange(3, dtype=np.int8), wanted)
    chosen = np.flatnonzero(group >= 0)
    unused = np.flatnonzero(group[:-1] < 0)
    if len(unused):
        each = listed((shown(names[client]) for client in unused[:SHOWN]), len(unused))
        text = f"{len(unused)} of {len(names)}, as data.clients asks for {sum(wanted)}: {each}"
        remarks.append(("clients not used", text))
    client, rows = _limited(owner, split, group, chosen, settings, seed)
    return Owners([names[position] for position in chosen], group[chosen], client, rows, split, remarks)


def _limited(
    owner: Ints,
    split: NDArray[np.int8],
    group: NDArray[np.int8],
    chosen: Ints,
    settings: ClientSettings,
    seed: int,
) -> tuple[Ints, Ints]:
    """Return, aligned, client and row of the chosen clients' rows, at most `data.examples` of each split."""
    rows = np.flatnonzero(group[owner] >= 0)
    client = np.searchsorted(chosen, owner[rows])
    if settings.examples is None:
        return client, rows
    drawn = numpy_generator(seed, "examples").random(len(rows))
    cell = client * 3 + split[rows]
    order = np.lexsort((drawn, cell))
    count = np.bincount(cell, minlength=3 * len(chosen))
    position = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
    most = np.array([settings.examples.train, settings.examples.validation, settings.examples.test])
    order = order[position < most[split[rows[order]]]]
    return client[order], rows[order]


def _check_enough(
    wanted: tuple[int, int, int], names: list[str], named: Ints | None, remarks: list[Remark]
) -> None:
    aside = f" (set aside: {remarks[0][1]})" if remarks else ""
    lower = f"Lower data.clients{' or data.min_examples' if remarks else ''}."
    if sum(wanted) > len(names):
        raise UserError(
            f"data.clients asks for {wanted[0]} train, {wanted[1]} validation and {wanted[2]} test clients, "
            f"{sum(wanted)} together, and there are {len(names)}{aside}. {lower}"
        )
    for number, asked in enumerate(wanted if named is not None else ()):
        there = int(np.count_nonzero(named == number))
        if asked > there:
            raise UserError(
                f"data.clients asks for {asked} {SPLITS[number]} clients, and the source names "
                f"{there}{aside}. {lower}"
            )


def named_groups(pool: pa.Table, names: list[str], owner: Ints) -> Ints | None:
    """Return the group that the source names for each client, `[clients]`; None if it names none.

    Raises:
        UserError: a client without a group, or with several.
    """
    if GROUP.name not in pool.column_names:
        return None
    group = pc.fill_null(pc.index_in(pool[GROUP.name], value_set=pa.array(SPLITS)), -1).to_numpy()
    found = np.full(len(names), -1, np.int64)
    owned = np.flatnonzero(owner >= 0)
    found[owner[owned]] = group[owned]
    wrong = owned[(group[owned] < 0) | (group[owned] != found[owner[owned]])]
    if len(wrong):
        row = wrong[0]
        of = pool[GROUP.name][row].as_py()
        other = found[owner[row]]
        what = f"{shown(of)} in row {row + 1}" + (f" and {SPLITS[other]!r} in others" if other >= 0 else "")
        raise UserError(
            f"data.source: the group of client {shown(names[owner[row]])} is {what}. Name one of train, "
            "validation and test in all rows of a client."
        )
    return found


def check_clients(
    partition: Component, names: list[str], owner: Ints, split: NDArray[np.int8], hidden: NDArray[np.bool_]
) -> None:
    """Raise UserError if a plug-in's partition returned invalid values."""
    if partition.is_built_in():
        return
    whose = f"data.partition.kind: {partition.kind} ({where_of(type(partition))}): clients()"
    for what, array in (("the rows' clients", owner), ("the rows' splits", split)):
        if np.shape(array) != hidden.shape:
            raise UserError(
                f"{whose} returned {what} as {list(np.shape(array))}. Return one for each of the "
                f"{len(hidden)} rows."
            )
    if list(names) != sorted(set(names)):
        raise UserError(f"{whose} returned names that are not ascending and distinct. Sort them.")
    if owner.min(initial=-1) < -1 or owner.max(initial=-1) >= len(names):
        raise UserError(
            f"{whose} returned the client {owner.max()}, and there are {len(names)} names, from 0; -1 is no "
            "client. Correct it."
        )
    if (owner[hidden] >= 0).any():
        raise UserError(f"{whose} gave a client rows that are hidden. Give these rows the client -1.")
    if not np.isin(split, range(3)).all():
        raise UserError(f"{whose} returned splits other than 0 train, 1 validation and 2 test. Correct it.")


def _draw(shuffled: Ints, has: NDArray[np.bool_], wanted: tuple[int, int, int]) -> Ints:
    """Choose train, validation and test clients, in this order; `has` is `[clients, splits]`.

    If too few have the required rows, the first clients are taken anyway.
    """
    trained = shuffled[has[shuffled, TRAIN]]
    later = np.roll(trained, -wanted[0])  # train clients are chosen last
    scored = later[has[later, TEST]][: wanted[1] + wanted[2]]
    others = trained[~np.isin(trained, scored)][: wanted[0]]
    chosen = np.concatenate([others, scored])
    return chosen if len(chosen) == sum(wanted) else shuffled[: sum(wanted)]


def _draw_named(shuffled: Ints, has: NDArray[np.bool_], wanted: tuple[int, int, int], named: Ints) -> Ints:
    """Choose clients within the groups that the source names; first those with the required rows."""
    drawn = []
    for number, count in enumerate(wanted):
        members = shuffled[named[shuffled] == number]
        ready = has[members, TRAIN] & (has[members, TEST] | (number == TRAIN))
        drawn.append(members[np.argsort(~ready, kind="stable")][:count])
    return np.concatenate(drawn)
