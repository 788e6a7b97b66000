"""The contract of aggregation steps.

A chain of steps turns the clients' updates, stacked `[clients, ...]`, into one update, `[...]`. Steps on
clients come first (clip, quantize, top-k), then exactly one that reduces (mean, median, trimmed mean), then
steps on the server. Each step has `init` and `update`, as an optax transform does. Its state is explicit:
tensors of the server go in and out, tensors of a client are in the client store.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from fedprofit.config.component import Component
from fedprofit.core.seeding import torch_generator
from fedprofit.core.types import ClientId, Params
from fedprofit.server.store import ClientStore

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Encoding:
    """How one client sends one tensor."""

    numbers: int  # how many it sends
    number_bytes: int  # of each
    position_bytes: int = 0  # of each, where only some numbers are sent
    extra_bytes: int = 0  # such as a scale

    @property
    def bytes(self) -> int:
        """Bytes in all.

        >>> Encoding(numbers=10, number_bytes=1, position_bytes=4, extra_bytes=4).bytes
        54
        """
        return self.numbers * (self.number_bytes + self.position_bytes) + self.extra_bytes


@dataclass(frozen=True)
class Sent:
    """A cohort's updates between two steps of a chain.

    Attributes:
        clients: the cohort.
        examples: how many each client has, `[clients]`; 0 for a client that returned nothing (it has no
            data or stopped). Such a client's tensors are zero and do not count.
        params: stacked `[clients, ...]`; unstacked after the step that reduces.
        encodings: by tensor, how each client sends it.
    """

    clients: tuple[ClientId, ...]
    examples: tuple[float, ...]
    params: Params
    encodings: Mapping[str, Encoding]

    @property
    def counted(self) -> list[int]:
        """The positions of the clients that returned something."""
        return [position for position, examples in enumerate(self.examples) if examples]


@dataclass(frozen=True)
class StepContext:
    """Facts of the round for a step.

    Attributes:
        name: of the step in its chain; it separates random draws and client states of two equal steps.
        seed: of the run.
        round: from 1.
        clients: the step's own state of each client.
    """

    name: str
    seed: int
    round: int
    clients: ClientStore

    def generator(self, client: ClientId, key: str) -> "torch.Generator":
        """Return the generator of this step, round, client and tensor."""
        return torch_generator(self.seed, self.name, self.round, client, key)


class AggregationStep(Component, family="aggregation step", package="fedprofit.server.steps"):
    """One step from the clients' updates to the server's.

    A step on clients changes `sent.params`, stacked; one on the server, unstacked.
    """

    needs: ClassVar[tuple[tuple[str, ...], ...]] = (("update",),)

    stage: ClassVar[Literal["client", "reduce", "server"]] = "client"

    def init(self, params: Params) -> Params:
        """Return the step's tensors on the server before the first round, from the server's parameters."""
        return {}

    def update(self, sent: Sent, state: Params, context: StepContext) -> tuple[Sent, Params]:
        """Return the updates for the next step, and this step's next tensors on the server."""
        raise NotImplementedError


class Reducer(AggregationStep):
    """A step that turns the updates of many clients into one."""

    needs: ClassVar[tuple[tuple[str, ...], ...]] = (("reduce", "update"),)

    stage: ClassVar[Literal["client", "reduce", "server"]] = "reduce"

    def weigh(self, examples: Sequence[float]) -> list[float]:
        """Return each client's weight, from its number of examples; the reported loss uses the same weights.

        >>> Reducer().weigh([9, 0, 2])
        [1.0, 0.0, 1.0]
        """
        return [float(count > 0) for count in examples]

    def reduce(self, stacked: Params, weights: Sequence[float]) -> Params:
        """Return one update, `[...]`, from those of the clients that returned something, `[clients, ...]`."""
        raise NotImplementedError

    def update(self, sent: Sent, state: Params, context: StepContext) -> tuple[Sent, Params]:
        """Reduce the clients' updates."""
        kept = sent.counted
        stacked = {key: tensor[kept] for key, tensor in sent.params.items()}
        weights = self.weigh([sent.examples[position] for position in kept])
        return replace(sent, params=self.reduce(stacked, weights)), state
