"""The contract of partitions.

There are two kinds. A *level* of heterogeneity deals rows to generated clients. The rows of a group of
clients and the number of rows per client are the same at every level: levels differ only in who gets which
row. Partitions of *given clients* take the clients and their rows from the data.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from fedprofit.config.base import Weight
from fedprofit.config.component import Component
from fedprofit.data.clients import ClientSettings, Owners

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from fedprofit.data.deal import Stock
    from fedprofit.data.sources.base import SourceSettings
    from fedprofit.data.splits import Ints


class PartitionSettings(Component, family="partition", package="fedprofit.data.partitions", default="auto"):
    """A partition of instances into clients."""

    @property
    def splits_by_client(self) -> bool:
        """Whether rows without a split are cut within their client, not within their task."""
        return False

    @property
    def spares_train_clients(self) -> bool:
        """Whether train clients get no validation and test rows."""
        return False

    def resolve(self, source: "SourceSettings") -> "PartitionSettings":
        """Return the partition to use for a source."""
        return self

    def owners(
        self,
        pool: "pa.Table",
        split: "NDArray[np.int8]",
        hidden: "NDArray[np.bool_]",
        settings: ClientSettings,
        seed: int,
    ) -> Owners:
        """Make the clients and give them rows.

        Args:
            pool: all rows.
            split: each row's split, `[rows]`.
            hidden: rows that no client may own, `[rows]`.
            settings: how many clients and examples.
            seed: seed of all draws.
        """
        raise NotImplementedError


class Dealt(PartitionSettings):
    """Fields of partitions that generate clients."""

    quantity_skew: Weight = 0.0
    """The standard deviation of the log of the clients' sizes."""
    hold_out: Literal["all", "scored"] = "all"
    """The clients that get validation and test rows: all, or only validation and test clients. The latter
    leaves these more rows of rare tasks."""

    @property
    def spares_train_clients(self) -> bool:
        """Whether train clients get no validation and test rows."""
        return self.hold_out == "scored"


class LevelSettings(Dealt):
    """A level of heterogeneity. A custom one is a subclass with a `kind` and the method `assign`."""

    needs: ClassVar[tuple[tuple[str, ...], ...]] = (("assign", "owners"),)

    @property
    def label(self) -> Literal["task", "category"]:
        """The column by which rows are dealt."""
        return "task"

    @property
    def tasks_each(self) -> int:
        """The minimum number of tasks of a client."""
        return 1

    def assign(self, stock: "Stock", generator: "np.random.Generator") -> "Ints":
        """Return the client that gets each row of a group's stock, `[rows]`.

        Client k must get exactly `stock.sizes[k, s]` rows of split s. `Stock.by_mix` and `Stock.by_choice` do
        that, from each client's mix of labels or from each client's list of labels.

        Args:
            stock: the rows of one group of clients, and the number of rows per client.
            generator: source of all draws.
        """
        raise NotImplementedError

    def owners(
        self,
        pool: "pa.Table",
        split: "NDArray[np.int8]",
        hidden: "NDArray[np.bool_]",
        settings: ClientSettings,
        seed: int,
    ) -> Owners:
        """Make the clients of the three groups and deal rows to them."""
        import numpy as np

        from fedprofit.data.dealt import deal_pool

        client, rows, remarks = deal_pool(pool, split, ~hidden, settings, self, seed)
        counts = (settings.clients.train, settings.clients.validation, settings.clients.test)
        groups = np.repeat(np.arange(3, dtype=np.int8), counts)
        return Owners(numbered(sum(counts)), groups, client, rows, split, remarks)


class GivenClients(PartitionSettings):
    """A partition whose clients come from the data. A custom one has a `kind` and the method `clients`."""

    needs: ClassVar[tuple[tuple[str, ...], ...]] = (("clients", "owners"),)

    def clients(
        self,
        pool: "pa.Table",
        split: "NDArray[np.int8]",
        hidden: "NDArray[np.bool_]",
        settings: ClientSettings,
        seed: int,
    ) -> "tuple[list[str], Ints, NDArray[np.int8]]":
        """Return the clients' names, ascending; each row's client as a position among them (-1: none); its
        split.

        The arguments are those of `owners`. Hidden rows have no client.
        """
        raise NotImplementedError

    def owners(
        self,
        pool: "pa.Table",
        split: "NDArray[np.int8]",
        hidden: "NDArray[np.bool_]",
        settings: ClientSettings,
        seed: int,
    ) -> Owners:
        """Draw the clients of the three groups; each keeps at most `data.examples` of its rows."""
        from fedprofit.data.choose import check_clients, choose_clients, named_groups

        names, owner, split = self.clients(pool, split, hidden, settings, seed)
        check_clients(self, names, owner, split, hidden)
        groups = named_groups(pool, names, owner)
        return choose_clients(names, owner, split, groups, settings, seed)


def numbered(count: int) -> list[str]:
    """Return the names of generated clients, ascending.

    >>> numbered(2)
    ['client-0000', 'client-0001']
    """
    width = max(4, len(str(count - 1)))
    return [f"client-{number:0{width}d}" for number in range(count)]
