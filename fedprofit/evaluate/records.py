"""Per-example records: what was scored for each example, before anything is averaged.

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
    answer: str | None = None  # None: nothing was generated
    scores: Mapping[str, float] = field(default_factory=dict)  # each per-example metric, by name


@dataclass(frozen=True)
class ClientRecord:
    """A record, whose prompt it is of, and where the example belongs."""

    condition: Condition
    client: ClientId  # SHARED for a prompt of all clients on a set of all clients
    scope: str  # local, global, unseen or validation
    record: Record


@dataclass(frozen=True)
class Scored:
    """What `score_clients` returns.

    Attributes:
        scores: aggregated values, a row per client, scope, task and metric.
        records: what they are computed from. A shared prompt's records on a shared set are there once.
    """

    scores: Sequence[Score] = ()
    records: Sequence[ClientRecord] = ()
