"""Conversion of rows of Python objects to a table: dicts, clients and their rows, or a custom object."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from fedprofit.core.errors import UserError, first_line, nearest
from fedprofit.data.pool import SPLITS, UNSEEN, Split
from fedprofit.data.sources.base import Columns
from fedprofit.data.tables.columns import SPLIT_NAMES
from fedprofit.data.tables.reading import shown
from fedprofit.data.tables.text import cells

Asked = Columns | Mapping[str, str] | None  # columns by role
Instance = Mapping[str, Any]  # column name -> value
GIVEN = ("client", "split", "group")  # columns that the structure of the data may give
ACCEPTED = (
    "a list of dicts, a mapping of clients to rows, a mapping of columns to values, a polars, pandas or "
    "pyarrow table, a datasets.Dataset or DatasetDict, or an object with the methods clients, examples and "
    "unseen"
)


@runtime_checkable
class ClientData(Protocol):
    """Clients and their examples, as a custom object returns them.

    Rows are mappings with the keys input and target, and any of definition, task and category.
    """

    def clients(self, group: Split) -> Sequence[str]:
        """Return the names of the train, validation or test clients."""
        ...

    def examples(self, client: str, split: Split) -> Sequence[Instance]:
        """Return the rows of one split of a client."""
        ...

    def unseen(self) -> Sequence[Instance]:
        """Return test rows of tasks that no client has; empty if there are no such tasks."""
        ...


def table_of_rows(data: Any, columns: Asked, place: str) -> tuple[pa.Table, Columns]:
    """Make a table of text from rows; return it and its columns' roles. UserError names the first bad row."""
    rows = list(_labelled(data, place))
    if not rows:
        raise UserError(f"{place}: it holds no rows. Check that the right data is given.")
    said = [key for key in GIVEN if any(key in one.said for one in rows)]
    there = list(dict.fromkeys([*said, *(str(key) for one in rows for key in one.row)]))
    named = named_columns(columns, there, said, place)
    made = {}
    for name in named.names():
        values = [_value(one, name, said, place) for one in rows]
        made[name], findings = cells(values, name, lists=name == named.target)
        if findings:
            first = min(findings, key=lambda found: found.rows[0])
            row = int(first.rows[0])
            raise UserError(
                f"{rows[row].where(place)}, {name}: {first.reason} ({shown(first.value(row))}). Give "
                "text or a number."
            )
    return pa.table(made), named


def named_columns(columns: Asked, there: Sequence[str], said: Sequence[str], place: str) -> Columns:
    """Return the columns' roles.

    Args:
        columns: the user's columns; roles that a mapping omits are found by their usual names.
        there: the existing columns.
        said: which of client, split and group the structure of the data gives, in columns of these names.
        place: name of the data in messages.
    """
    if isinstance(columns, Columns):
        return columns.model_copy(update={what: what for what in said})
    asked = dict(columns or {})
    for what, name in asked.items():
        if what not in Columns.model_fields:
            raise UserError(f"{place}: columns names {what!r}; {nearest(what, Columns.model_fields)}")
        if name not in there:
            raise UserError(f"{place}: there is no column {name!r} (columns: {what}); {nearest(name, there)}")
    usual = {what: what for what in Columns.model_fields if what in there}
    found = Columns(**usual | asked | {what: what for what in said})
    for what in ("input", "target"):
        name = getattr(found, what)
        if name not in there:
            raise UserError(
                f"{place}: there is no column {name!r}; {nearest(name, there)} Name it: "
                f'columns={{"{what}": …}}.'
            )
    return found


@dataclass(frozen=True)
class _Labelled:
    """A row, the columns from the structure of the data, and the row's name in messages."""

    row: Instance
    said: dict[str, str | None]  # columns client, split and group
    number: int  # from 1, within the client's split

    def where(self, place: str) -> str:
        """Name client, split and row."""
        client, split = (self.said.get(key) or self.row.get(key) for key in ("client", "split"))
        if self.said.get("group") == UNSEEN:
            return f"{place}: unseen(), row {self.number}"
        named = [f"client {shown(client)}"] * bool(client) + [f"split {shown(split)}"] * bool(split)
        return f"{place}: {', '.join([*named, f'row {self.number}'])}"


def _labelled(data: Any, place: str) -> Iterator[_Labelled]:
    """Yield the rows of data that is not a table, one by one."""
    if isinstance(data, ClientData):
        yield from _of_object(data, place)
    elif isinstance(data, Mapping):
        for client, examples in data.items():
            name = _text(client, f"{place}: a client")
            parts = examples if isinstance(examples, Mapping) else {None: examples}
            for split, rows in parts.items():
                if split is not None and split not in SPLIT_NAMES:
                    raise UserError(
                        f"{place}: client {name!r} has a split {shown(split)}; {nearest(str(split), SPLITS)}"
                    )
                said = {"client": name} | ({"split": SPLIT_NAMES[split]} if split is not None else {})
                where = f"{place}: client {name!r}" + (f", split {split!r}" if split else "")
                yield from _rows(rows, said, where)
    elif isinstance(data, Iterable):
        yield from _rows(data, {}, place)
    else:
        raise UserError(f"{place}: found a {type(data).__name__}. Give {ACCEPTED}.")


def _of_object(data: ClientData, place: str) -> Iterator[_Labelled]:
    """Read an object with the three methods row by row."""
    place = f"{place} ({type(data).__name__})"
    groups: dict[str, str] = {}
    for group in SPLITS:
        names = _called(lambda group=group: data.clients(group), f"{place}: clients({group!r})")  # type: ignore[misc]
        for name in _counted(names, f"{place}: clients({group!r})", "names"):
            client = _text(name, f"{place}: clients({group!r}): a name")
            if groups.setdefault(client, group) != group:
                raise UserError(
                    f"{place}: client {client!r} is a {groups[client]} client and a {group} client. Name "
                    "it in one group."
                )
            for split in SPLITS:
                where = f"{place}: client {client!r}, split {split!r}"
                rows = _called(lambda c=client, s=split: data.examples(c, s), where)  # type: ignore[misc]
                yield from _rows(rows, {"client": client, "split": split, "group": group}, where)
    where = f"{place}: unseen()"
    said = {"client": None, "split": "test", "group": UNSEEN}
    yield from _rows(_called(data.unseen, where), said, where)


def _called(call: Callable[[], Any], where: str) -> Any:
    try:
        return call()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where}: failed ({first_line(error, True)}). Correct the object.") from error


def _rows(rows: Any, said: Mapping[str, str | None], where: str) -> Iterator[_Labelled]:
    for number, row in enumerate(_counted(rows, where, "rows"), 1):
        if not isinstance(row, Mapping):
            raise UserError(
                f"{where}: row {number} is {shown(row)}, not a mapping of columns to values. Give rows "
                'such as {"input": …, "target": …}.'
            )
        yield _Labelled(row, dict(said), number)


def _counted(values: Any, where: str, what: str) -> Iterator[Any]:
    """Yield the values of a sequence. Raise UserError if its length is not their number."""
    countable = hasattr(values, "__iter__") or hasattr(values, "__getitem__")
    if isinstance(values, str | bytes | Mapping) or not countable:
        raise UserError(f"{where}: found {shown(values)} where {what} are expected. Give a list.")
    length = len(values) if hasattr(values, "__len__") else None
    found = 0
    try:
        for value in values:
            found += 1
            if length is not None and found > length:
                break
            yield value
    except (LookupError, TypeError, ValueError, OSError) as error:
        raise UserError(
            f"{where}: reading row {found + 1} failed ({first_line(error, True)}). Correct the object."
        ) from error
    if length is not None and found != length:
        more = "more" if found > length else str(found)
        raise UserError(
            f"{where}: len() is {length}, and iteration yields {more} {what}. Correct the object."
        )


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{what} is {shown(value)}, not text. Name clients by text.")
    return value


def _value(one: _Labelled, name: str, said: Sequence[str], place: str) -> Any:
    if name in said:
        return one.said.get(name)
    if name not in one.row:
        raise UserError(
            f"{one.where(place)}: there is no key {name!r}; {nearest(name, map(str, one.row))} Give every "
            "row the same keys; null if a value is missing."
        )
    value = one.row[name]
    if isinstance(value, bytes):
        raise UserError(
            f"{one.where(place)}, {name}: bytes where text is expected ({shown(value)}). Decode them."
        )
    return plain(value)


def plain(value: Any) -> Any:
    """Write numbers as text and arrays as lists, as values of a table; NaN is None.

    >>> plain(3), plain(0.5), plain(float("nan")), plain(("a", 2)), plain(True)
    ('3', '0.5', None, ['a', '2'], True)
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, np.ndarray | tuple):
        value = list(value)
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, float):
        if np.isfinite(value):
            return np.format_float_positional(value, trim="-")
        return None if np.isnan(value) else value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
