"""Per-example records: the scores of each example before averaging.

Every aggregated score is computed from records, so that later questions (macro averages, worst examples,
other groups of tasks) need no rerun.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedprofit.core.types import ClientId
from fedprofit.evaluate.results import Condition, Score

SHARED = ""  # the client of records that all clients share


@dataclass(frozen=True)
class Record:
    """The scores of one prompt on one example."""

    example: int  # row of the data set's store; -1 for an example from elsewhere
    task: str
    loss: float  # nats, summed over the target tokens
    tokens: int  # target tokens
    answer: str | None = None  # None if nothing was generated
    scores: Mapping[str, float] = field(default_factory=dict)  # each per-example metric, by name


@dataclass(frozen=True)
class ClientRecord:
    """A record, with the client of its prompt and the scope of its example."""

    condition: Condition
    client: ClientId  # SHARED for a prompt of all clients on a set of all clients
    scope: str  # local, global, unseen or validation
    record: Record


@dataclass(frozen=True)
class Scored:
    """Result of `score_clients`.

    Attributes:
        scores: aggregated values, a row per client, scope, task and metric.
        records: the records from which they are computed; once for a shared prompt on a shared set.
    """

    scores: Sequence[Score] = ()
    records: Sequence[ClientRecord] = ()
