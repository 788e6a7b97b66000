"""`flwr`: partitions by flwr-datasets (extra `partitioners`)."""

import inspect
from typing import TYPE_CHECKING, Any

from pydantic import Field

from fedprofit.core.errors import UserError, nearest
from fedprofit.core.seeding import numpy_generator
from fedprofit.data.clients import ClientSettings
from fedprofit.data.partitions.base import GivenClients, numbered

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from fedprofit.data.splits import Ints


class Flower(GivenClients, kind="flwr"):
    """A partitioner of flwr-datasets."""

    partitioner: str
    """The name of a class of `flwr_datasets.partitioner`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the class. Defaults, if the class accepts them: `num_partitions` is the number of clients,
    `partition_by` is task and `seed` is the run's."""

    def clients(
        self,
        pool: "pa.Table",
        split: "NDArray[np.int8]",
        hidden: "NDArray[np.bool_]",
        settings: ClientSettings,
        seed: int,
    ) -> "tuple[list[str], Ints, NDArray[np.int8]]":
        """Partition the rows without a split or with split train; split each part by seed."""
        import numpy as np
        import pyarrow.compute as pc

        from fedprofit.data.splits import cut, same_input

        free = np.flatnonzero(~hidden & pc.fill_null(pc.equal(pool["split"], "train"), True).to_numpy())
        total = settings.clients.train + settings.clients.validation + settings.clients.test
        count, part = partition_rows(pool, free, self, total, seed)
        names, owner, split = numbered(count), np.full(len(split), -1, np.int64), split.copy()
        owner[free] = part
        kept = np.flatnonzero(owner >= 0)
        split[kept] = cut(names, owner[kept], same_input(pool)[kept], seed, (True, True))
        return names, owner, split


def partition_rows(
    pool: "pa.Table", rows: "Ints", settings: Flower, clients: int, seed: int
) -> "tuple[int, Ints]":
    """Partition `rows` of the pool; return the number of parts and each row's part (-1: none).

    The partitioner gets the columns task, category and client. Rows are shuffled by seed, because some
    classes partition in order.

    Raises:
        UserError: the extra is not installed, the class is unknown, it does not accept the options, or it
            assigns a row to two parts (as vertical partitioners, which divide columns, do).
    """
    partitioner = _make(settings, clients, seed)
    import datasets
    import numpy as np
    import pyarrow as pa

    rows_in_order = numpy_generator(seed, "flower").permutation(len(rows))
    table = pool.select(["task", "category", "client"]).take(pa.array(rows[rows_in_order]))
    table = table.append_column("row", pa.array(rows_in_order))
    part = np.full(len(rows), -1, np.int64)
    try:
        partitioner.dataset = datasets.Dataset(datasets.table.InMemoryTable(table))
        count = int(partitioner.num_partitions)
        for number in range(count):
            mine = np.asarray(partitioner.load_partition(number)["row"], np.int64)
            if (part[mine] >= 0).any():
                raise ValueError("it gives the same row to two clients")
            part[mine] = number
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"data.partition.partitioner: {settings.partitioner} cannot partition these {len(rows)} rows: "
            f"{error}. Change data.partition.options or data.clients, or choose another class."
        ) from error
    return count, part


def _make(settings: Flower, clients: int, seed: int) -> Any:
    try:
        import flwr_datasets.partitioner as library
    except ImportError:
        raise UserError(
            "data.partition.kind: flwr needs the flwr-datasets package. Install it: "
            "pip install 'fedprofit[partitioners]'"
        ) from None
    if settings.partitioner not in library.__all__:
        hint = nearest(settings.partitioner, library.__all__)
        raise UserError(
            f"data.partition.partitioner is {settings.partitioner!r}, which is not a class of "
            f"flwr_datasets.partitioner; {hint}"
        )
    kind = getattr(library, settings.partitioner)
    accepted = inspect.signature(kind).parameters
    usual = {"num_partitions": clients, "partition_by": "task", "seed": seed}
    options = {**{key: value for key, value in usual.items() if key in accepted}, **settings.options}
    for name in settings.options:
        if name not in accepted:
            raise UserError(
                f"data.partition.options: {settings.partitioner} takes no {name!r}; {nearest(name, accepted)}"
            )
    try:
        return kind(**options)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"data.partition.options: {settings.partitioner} does not accept {options}: {error}. "
            "Correct them."
        ) from error
