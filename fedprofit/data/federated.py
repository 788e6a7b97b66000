"""The federated data set: lazy access from client ids to train, validation and test examples.

It is made once, from a source, a template and a partition, in two folders of the cache: the tokenized
examples (`store.py`) and the owners of their rows. Both are memory-mapped: a million clients need a file, but
no memory. Folders are addressed by content: equal settings give the same folder. A damaged folder is
recreated.
"""

import bisect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedprofit.core.errors import UserError, nearest
from fedprofit.core.files import cache_folder, content_hash, write_json
from fedprofit.core.reading import read_json
from fedprofit.core.seeding import numpy_generator
from fedprofit.core.types import ClientId
from fedprofit.data.partition import Assignment, partition
from fedprofit.data.pool import SPLITS, Split, rows_hash
from fedprofit.data.remarks import remarks_on
from fedprofit.data.settings import DataConfig
from fedprofit.data.sources import fingerprint, read_source
from fedprofit.data.store import (
    FORMAT,
    Examples,
    ExampleStore,
    is_intact,
    make_folder,
    map_arrow,
    save_arrow,
    write_store,
)
from fedprofit.data.tables.reading import Reading, Remark
from fedprofit.data.template import Template
from fedprofit.plugins import code_of, used_plugins

if TYPE_CHECKING:
    from fedprofit.backbone.load import Backbone  # data is read and checked before torch is imported

Group = Split  # train, validation and test clients
READ = "read.txt"  # in each folder: hash of the rows it was made from
REMARKS = "remarks.json"  # in the clients' folder: remarks on the data

# The last pool read, by the name of its clients' folder. A command checks it before importing torch and
# tokenizes it afterwards.
_read: dict[str, pa.Table] = {}


class Names(Sequence[ClientId]):
    """The names of some clients, read one by one from a memory-mapped column."""

    def __init__(self, column: pa.ChunkedArray, positions: NDArray[np.int64] | range) -> None:
        """View the names at these positions of the column."""
        self._column, self._positions = column, positions

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, position: int) -> ClientId: ...
    @overload
    def __getitem__(self, position: slice) -> "Names": ...
    def __getitem__(self, position: int | slice) -> "ClientId | Names":
        if isinstance(position, slice):
            return Names(self._column, self._positions[position])
        name: ClientId = self._column[int(self._positions[position])].as_py()
        return name


class FederatedDataset:
    """Clients, their examples, and the examples of tasks that no client has."""

    def __init__(self, examples: Path, clients: Path) -> None:
        """Open the two folders that `open_dataset` makes."""
        self.store = ExampleStore(examples)
        self._clients = clients
        self.fingerprint = content_hash([examples.name, clients.name])
        self._names = map_arrow(clients / "names.arrow")
        self._groups, self._indptr, self._rows, self._unseen = (
            np.load(clients / f"{name}.npy", mmap_mode="r") for name in ("groups", "indptr", "rows", "unseen")
        )

    @property
    def tasks(self) -> list[str]:
        """Names of all tasks of the pool."""
        return self.store.tasks

    @property
    def unseen(self) -> Examples:
        """Test examples of the tasks that are held out from all clients."""
        return Examples(self.store, self._unseen)

    def members(self, group: Group) -> NDArray[np.int64]:
        """Return the positions of the train, validation or test clients, in the order of names."""
        return np.flatnonzero(self._groups == SPLITS.index(group))

    def clients(self, group: Group) -> Names:
        """Return the names of the train, validation or test clients, sorted, lazily."""
        return Names(self._names, self.members(group))

    def examples(self, client: ClientId, split: Split) -> Examples:
        """Return one split of a client's examples, lazily. Raise UserError if there is no such client."""
        names = Names(self._names, range(len(self._names)))
        position = bisect.bisect_left(names, client)
        if position == len(names) or names[position] != client:
            raise UserError(f"client {client!r} is not in this data set ({nearest(client, names[:50])}).")
        return Examples(self.store, self._rows_of(np.array([position]), split)[0])

    def _rows_of(
        self, clients: NDArray[np.int64], split: Split
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows of one split of some clients, client by client, and the number per client."""
        entries = 3 * clients + SPLITS.index(split)
        starts, sizes = self._indptr[entries], self._indptr[entries + 1] - self._indptr[entries]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return self._rows[np.repeat(starts, sizes) + within], sizes

    def pooled(self, group: Group, split: Split) -> Examples:
        """Return one split of all clients of a group together."""
        return Examples(self.store, self._rows_of(self.members(group), split)[0])

    def remarks(self) -> list[Remark]:
        """Return remarks on the data: rows that are skipped, unused, duplicate or trimmed."""
        remedy = f"Remove the folder {self._clients.parent}; it is recreated."
        found = [(what, text) for what, text in read_json(self._clients / REMARKS, remedy)["remarks"]]
        rows = np.concatenate([self._rows, self._unseen])
        trimmed = self.store.trimmed(rows)
        if trimmed:
            found.append(("trimmed examples", f"{trimmed} of {len(rows)}, to data.template.max_tokens"))
        merged, compared = self.store.merged
        if merged:
            text = f"{merged} of {compared} texts: the tokenizer merges characters across input and target"
            found.append(("tokenized in parts", text))
        return found

    def trained_tasks(self, client: ClientId) -> frozenset[str]:
        """Return the tasks of a client's train examples."""
        found = np.unique(self.store.task_of[self.examples(client, "train").rows])
        return frozenset(self.tasks[number] for number in found)

    def task_counts(self) -> Any:
        """Count each client's train examples by task: a sparse array (scipy's), `[clients, tasks]`."""
        from scipy.sparse import coo_array  # here: only needed at the end of a run

        rows, sizes = self._rows_of(np.arange(len(self._names)), "train")
        clients = np.repeat(np.arange(len(sizes)), sizes)
        ones = np.ones(len(rows), dtype=np.int64)
        tasks = self.store.task_of[rows]
        return coo_array((ones, (clients, tasks)), shape=(len(sizes), len(self.tasks))).tocsr()


def stratified(examples: Examples, count: int, seed: int, purpose: str) -> Examples:
    """Draw a fixed, seeded sample, stratified by task: tasks keep their shares, up to rounding.

    Each row gets a random rank within its task, divided by the task's size; the rows of lowest rank are
    drawn.
    """
    tasks = examples.store.task_of[examples.rows]
    order = numpy_generator(seed, "sample", purpose).permutation(len(examples))
    rank = np.zeros(len(examples))
    for task in np.unique(tasks):
        members = order[tasks[order] == task]
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    taken = np.argsort(rank, kind="stable")[:count]
    return Examples(examples.store, examples.rows[np.sort(taken)])


def prepare_clients(settings: DataConfig, seed: int) -> Path:
    """Read the source, check all its rows and make its clients, unless they are cached; needs no model.

    Returns:
        The clients' folder.

    Raises:
        UserError: see the source and the partition.
    """
    source = fingerprint(settings.source, seed)
    deal = settings.model_dump(mode="json", exclude={"template", "source"})
    if not settings.partition.is_built_in():
        deal["code"] = [used_plugins(settings.partition), code_of(type(settings.partition))]
    folder = cache_folder() / "data" / f"clients-{content_hash([FORMAT, source, deal, seed])}"
    if not is_intact(folder):
        reading = Reading(skip=settings.bad_rows == "skip")
        pool = read_source(settings.source, seed, reading)
        try:
            assignment = partition(pool, settings, seed)
        except UserError as error:
            raise UserError(" ".join(filter(None, [str(error), reading.dropped]))) from None
        remarks = [*reading.remarks, *assignment.remarks, *remarks_on(pool)]

        def write(temporary: Path) -> None:
            _write_clients(temporary, assignment)
            write_json(temporary / REMARKS, {"remarks": remarks})
            (temporary / READ).write_text(rows_hash(pool))

        make_folder(folder, write)
        _read.clear()
        _read[folder.name] = pool
    return folder


def check_sources(data: Iterable[DataConfig]) -> None:
    """Check all rows of the sources that can be checked early. UserError names the first one's errors."""
    tables = {
        content_hash([one.source.model_dump(), one.bad_rows]): one for one in data if one.source.checks_early
    }
    for one in tables.values():
        read_source(one.source, 0, Reading(skip=one.bad_rows == "skip"))


def open_dataset(settings: DataConfig, backbone: "Backbone", seed: int) -> FederatedDataset:
    """Open the data set of these settings; make it first if it is not cached.

    Raises:
        UserError: see the source, the template and the partition.
    """
    from fedprofit.backbone.fingerprint import tokenizer_text  # here: it imports transformers

    clients = prepare_clients(settings, seed)
    pool = _read.pop(clients.name, None)
    tokenizer = content_hash(tokenizer_text(backbone.tokenizer))
    eos = backbone.eos_token_ids[0]
    source = [fingerprint(settings.source, seed), settings.bad_rows]
    texts = content_hash([FORMAT, source, settings.template.model_dump(), tokenizer, eos])
    examples = cache_folder() / "data" / f"examples-{texts}"
    if not is_intact(examples):
        if pool is None:
            pool = read_source(settings.source, seed, Reading(skip=settings.bad_rows == "skip"))
        read = pool

        def write(folder: Path) -> None:
            write_store(folder, read, Template(backbone.tokenizer, settings.template, eos))
            (folder / READ).write_text(rows_hash(read))

        make_folder(examples, write)
    _check_one_reading(examples, clients)
    return FederatedDataset(examples, clients)


def _check_one_reading(examples: Path, clients: Path) -> None:
    """Raise UserError if the source changed between the reading of texts and of their owners.

    A source's fingerprint may not show it, for example for a data set on the hub without a revision.
    """
    was, now = ((folder / READ).read_text() for folder in (clients, examples))
    if was != now:
        raise UserError(
            "data.source: its content has changed since this data set was first read, so that the owners of "
            f"its rows are outdated. Name a revision (data.source.revision), or remove {clients} and "
            f"{examples} to read it anew."
        )


def _write_clients(folder: Path, assignment: Assignment) -> None:
    folder.mkdir(parents=True)
    save_arrow(folder / "names.arrow", assignment.clients)
    for name in ("groups", "indptr", "rows", "unseen"):
        np.save(folder / f"{name}.npy", getattr(assignment, name))
