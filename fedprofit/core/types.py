"""Types that the packages of fedprofit share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch  # slow to import, and not needed to check data

ClientId = str
Tokens = NDArray[np.int32]

# Trainable parameters by name. Unstacked, for one client or the server: {"prompt": [length, width]}.
# Stacked, for many clients: {"prompt": [clients, length, width]}.
Params = dict[str, "torch.Tensor"]


@dataclass(frozen=True)
class Example:
    """One tokenized example.

    The model reads [soft prompt][prefix][source] and is trained to generate [target].
    """

    prefix: Tokens  # task definition and few-shot examples, shared by many examples; may be empty
    source: Tokens  # the input and the answer cue
    target: Tokens  # the first reference, then end of sequence
    task: str
    references: tuple[str, ...]
    row: int = -1  # of the data set's store; -1 for an example from elsewhere


Batch = Sequence[Example]


@dataclass(frozen=True)
class ClientBatches:
    """A client's batches of one round, one per step, and its weight in the average."""

    client: ClientId
    batches: Sequence[Batch]
    weight: float


@dataclass(frozen=True)
class LocalResult:
    """Result of a local solver for K clients."""

    params: Params  # stacked, [clients, ...]
    losses: list[list[float]]  # [client][step]: mean loss per target token, before the step
    steps: list[int]  # steps of each client
    tokens: list[int]  # training tokens that each client read, prompt included
    stopped: dict[ClientId, str]  # clients with a loss or gradient that is not finite, and where


@dataclass(frozen=True)
class ServerState:
    """State of the server between rounds."""

    params: Params  # unstacked
    optimizer: dict[str, Params] = field(default_factory=dict)  # moments, by name
    round: int = 0
    extra: dict[str, Params] = field(default_factory=dict)  # further state of an algorithm, by name


@dataclass(frozen=True)
class RoundReport:
    """Result and cost of a round."""

    loss: float  # weighted mean over clients of their mean loss; NaN if no client had data
    clients: int
    steps: int
    tokens: int
    bytes_down: int
    bytes_up: int
    stopped: dict[ClientId, str]

    def to_mapping(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return dict(vars(self))
