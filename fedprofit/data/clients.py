"""Requested numbers of clients and examples, and the rows that a partition gives to each client."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedprofit.config.base import Count, Section

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedprofit.data.splits import Ints
    from fedprofit.data.tables.reading import Remark


class Groups(Section):
    """Numbers of clients, or of examples per client, for train, validation and test."""

    train: Count
    validation: Count
    test: Count


class ClientSettings(Section):
    """Numbers of clients and examples of a data set."""

    clients: Groups = Groups(train=8, validation=2, test=4)
    """Clients of each group."""
    examples: Groups | None = Groups(train=48, validation=16, test=16)
    """Maximum number of examples of each split per client; null: no maximum."""
    min_examples: Count = 0
    """Given clients (natural, flwr) with fewer examples in total are excluded."""


@dataclass(frozen=True)
class Owners:
    """Clients, their groups, and, aligned, client and row of each owned row."""

    names: list[str]  # of the clients, ascending
    groups: "NDArray[np.int8]"  # [clients]: 0 train, 1 validation, 2 test
    client: "Ints"  # [owned], positions in `names`
    rows: "Ints"  # [owned], rows of the pool, distinct
    split: "NDArray[np.int8]"  # [rows of the pool]
    remarks: "list[Remark]"
