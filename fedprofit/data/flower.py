"""Partitions by flwr-datasets (extra `partitioners`): any class of `flwr_datasets.partitioner` by name."""

import inspect
from typing import Any

import numpy as np
import pyarrow as pa

from fedprofit.core.errors import UserError, nearest
from fedprofit.core.seeding import numpy_generator
from fedprofit.data.settings import Partition
from fedprofit.data.splits import Ints


def partition_with_flower(
    pool: pa.Table, rows: Ints, settings: Partition, clients: int, seed: int
) -> tuple[int, Ints]:
    """Partition `rows` of the pool; return how many parts there are and each row's part (-1: none).

    The partitioner sees the columns task, category and client, and the rows in an order by seed, since
    some classes cut in order. `num_partitions` is `clients`, `partition_by` is "task" and `seed` is the
    run's, where the class takes them and the options do not set them.

    Raises UserError: the extra is not installed, an unknown class, options it does not accept, a
    class that hands a row to two parts (the vertical ones cut columns, not rows).
    """
    partitioner = _make(settings, clients, seed)
    import datasets

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
                raise ValueError("it hands the same row to two clients")
            part[mine] = number
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"data.partition.partitioner: {settings.partitioner} cannot partition these {len(rows)} rows: "
            f"{error}. Change data.partition.options or data.clients, or take another class."
        ) from error
    return count, part


def _make(settings: Partition, clients: int, seed: int) -> Any:
    try:
        import flwr_datasets.partitioner as library
    except ImportError:
        raise UserError(
            "data.partition.kind: flwr needs the flwr-datasets package. Install it: "
            "pip install 'fedprofit[partitioners]'"
        ) from None
    if settings.partitioner is None or settings.partitioner not in library.__all__:
        hint = nearest(settings.partitioner or "", library.__all__)
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
