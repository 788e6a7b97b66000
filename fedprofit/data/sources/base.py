"""The contract of data sources: settings that read instances into one table.

A source reads only texts. Tokens, and clients and splits that it does not name, are made later by the same
code for every source.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator

from fedprofit.config.base import Section
from fedprofit.config.component import Component

if TYPE_CHECKING:
    import pyarrow as pa

    from fedprofit.data.tables.reading import Reading


def _path(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise ValueError(
            f"holds data in memory ({type(value).__name__}): should be the path of a file, as text. For data "
            "in memory set data.source to fedprofit.data.memory.dataset(rows)"
        )
    if not value or "\0" in value:
        raise ValueError(f"should be the path of a file (found {value[:80]!r})")
    return value


FilePath = Annotated[str, BeforeValidator(_path)]


def portable(source: dict[str, Any]) -> dict[str, Any]:
    """Reduce a source's path to the name of its file or folder.

    >>> portable({"kind": "table", "path": "here/and/there.csv"})
    {'kind': 'table', 'path': 'there.csv'}
    """
    return source | {"path": Path(source["path"]).name} if "path" in source else source


class SourceSettings(Component, family="data source", package="fedprofit.data.sources"):
    """The origin of a data set's instances.

    A custom source is a subclass with a `kind` and the method `read`. Its cached rows are recreated when its
    settings, or the files or facts that it names, change; if it names none, when its rows change.
    """

    needs: ClassVar[tuple[tuple[str, ...], ...]] = (("read",),)

    is_users_own: ClassVar[bool] = True  # false for a benchmark that defines its own scoring
    checks_early: ClassVar[bool] = False  # all its rows are checked before a study's first run
    comes_with_package: ClassVar[bool] = False  # its rows depend on this package's version, not on files
    unread_share: ClassVar[float] = 0.0  # tolerated share of targets that rouge-score's tokenizer cannot read

    @property
    def place(self) -> str:
        """The source's name in messages: a file, folder or data set; else its kind."""
        return self.kind

    @property
    def has_clients(self) -> bool:
        """Whether its rows name the clients that own them."""
        return False

    def files(self) -> Mapping[str, Path]:
        """Return the files that it reads, by machine-independent names."""
        return {}

    def facts(self) -> Mapping[str, str]:
        """Return other facts that its rows depend on, for example versions of packages."""
        return {}

    def read(self, seed: int, reading: "Reading") -> "pa.Table":
        """Read all rows, as a table of `fedprofit.data.pool.POOL_SCHEMA`.

        `fedprofit.data.memory.read_rows(rows, self.place, reading)` makes such a table from rows in memory.

        Args:
            seed: for sources that sample their rows.
            reading: collects unusable rows.
        """
        raise NotImplementedError


class Columns(Section):
    """The columns of a table; only input and target must be present."""

    input: str = "input"
    """The input text."""
    target: str = "target"
    """The expected answer: a text, or a list of references."""
    client: str | None = None
    """The client that owns the row."""
    definition: str | None = None
    """The instruction; rows of a task usually share it."""
    task: str | None = None
    """The name of the row's task."""
    category: str | None = None
    """The category of the row's task."""
    split: str | None = None
    """train, validation or test."""
    group: str | None = None
    """The group of the row's client: train, validation or test; unseen for rows of no client."""

    def names(self) -> list[str]:
        """Return the distinct names of the columns, sorted."""
        return sorted(set(self.model_dump(exclude_none=True).values()))


class TabularSource(SourceSettings):
    """A source with user-defined columns."""

    columns: Columns = Columns()
    """The names of the columns."""

    @property
    def has_clients(self) -> bool:
        """Whether a column of clients is named."""
        return self.columns.client is not None
