"""The nouns that the rooms of this package hand to each other."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch  # data is read and checked before it is imported

ClientId = str
Tokens = NDArray[np.int32]

# What a client owns, by name. Unstacked: one client's or the server's, for example
# {"prompt": [length, width]}. Stacked: many clients', {"prompt": [clients, length, width]}.
Params = dict[str, "torch.Tensor"]


@dataclass(frozen=True)
class Example:
    """One tokenized instance: what comes before, what is asked, and what is wanted.

    The model reads [soft prompt][prefix][source] and is trained to continue with [target].
    """

    prefix: Tokens  # definition and examples, shared by many instances; may be empty
    source: Tokens  # the input and the cue
    target: Tokens  # the first reference, then end of sequence
    task: str
    references: tuple[str, ...]
    row: int = -1  # of the data set's store; -1 for an example from elsewhere


Batch = Sequence[Example]


@dataclass(frozen=True)
class ClientWork:
    """One client's part of a round: its batches, one a step, and its weight in the average."""

    client: ClientId
    batches: Sequence[Batch]
    weight: float


@dataclass(frozen=True)
class LocalResult:
    """What a local solver returns for K clients."""

    params: Params  # stacked, [clients, ...]
    losses: list[list[float]]  # by client and step: mean loss per target token, before the step
    steps: list[int]  # steps taken by each client
    tokens: list[int]  # tokens of its own that each client's training read, prompt included
    stopped: dict[ClientId, str]  # clients whose loss or gradient was not finite, and where


@dataclass(frozen=True)
class ServerState:
    """All that the server keeps between rounds."""

    params: Params  # unstacked
    optimizer: dict[str, Params] = field(default_factory=dict)  # moments, by name
    round: int = 0
    extra: dict[str, Params] = field(default_factory=dict)  # whatever else an algorithm keeps, by name


@dataclass(frozen=True)
class RoundReport:
    """What a round did and cost."""

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
