"""The source's own clients; and the default, which uses them if there are any."""

from typing import TYPE_CHECKING

from fedprofit.core.errors import UserError
from fedprofit.data.clients import ClientSettings
from fedprofit.data.partitions.base import Dealt, GivenClients, PartitionSettings
from fedprofit.data.partitions.levels import Task

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from fedprofit.data.sources.base import SourceSettings
    from fedprofit.data.splits import Ints


class Natural(GivenClients, kind="natural"):
    """The clients that the source's rows name."""

    @property
    def splits_by_client(self) -> bool:
        """Whether rows without a split are cut within their client."""
        return True

    def clients(
        self,
        pool: "pa.Table",
        split: "NDArray[np.int8]",
        hidden: "NDArray[np.bool_]",
        settings: ClientSettings,
        seed: int,
    ) -> "tuple[list[str], Ints, NDArray[np.int8]]":
        """Return the clients in the column of clients."""
        import numpy as np

        from fedprofit.data.splits import encode, unseen_rows

        names, owner = encode(pool["client"])
        without = np.flatnonzero((owner < 0) & ~unseen_rows(pool))
        if len(without):
            raise UserError(
                f"data.partition.kind: natural takes the source's own clients, and {len(without)} of its "
                f"{len(owner)} rows name none (the first is row {without[0] + 1}). Set "
                "data.source.columns.client, or choose another kind."
            )
        return names, np.where(hidden, -1, owner), split


class Auto(Dealt, kind="auto"):
    """The source's own clients if it names them (natural), else one task per client (task)."""

    def resolve(self, source: "SourceSettings") -> PartitionSettings:
        """Return the partition to use for a source. Raise UserError for a field that it does not have."""
        if not source.has_clients:
            return Task(quantity_skew=self.quantity_skew, hold_out=self.hold_out)
        for name in ("quantity_skew", "hold_out"):
            if getattr(self, name) != Auto.model_fields[name].default:
                raise UserError(
                    f"data.partition.{name} does not go with the clients that the source names, whose sizes "
                    "are given. Leave it out, or choose another data.partition.kind."
                )
        return Natural()
