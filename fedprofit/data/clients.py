"""How many clients and examples a configuration asks for, and what a partition gives to each client."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedprofit.config.base import Count, Section

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedprofit.data.splits import Ints
    from fedprofit.data.tables.reading import Remark


class Groups(Section):
    """How many clients, or how many examples a client, for each of three purposes."""

    train: Count
    validation: Count
    test: Count


class ClientSettings(Section):
    """How many clients and examples a data set has."""

    clients: Groups = Groups(train=8, validation=2, test=4)
    """How many clients of each group."""
    examples: Groups | None = Groups(train=48, validation=16, test=16)
    """The largest number of examples of each split that a client gets; null: all it has."""
    min_examples: Count = 0
    """Given clients (natural, flwr) with fewer examples in all are set aside."""


@dataclass(frozen=True)
class Owners:
    """Who owns what: clients, their groups, and, aligned, the client and row of each thing owned."""

    names: list[str]  # of the clients, ascending
    groups: "NDArray[np.int8]"  # [clients]: 0 train, 1 validation, 2 test
    client: "Ints"  # [owned], positions in `names`
    rows: "Ints"  # [owned], rows of the pool, none twice
    split: "NDArray[np.int8]"  # [rows of the pool]
    remarks: "list[Remark]"
