"""The aggregation chain: from the updates of a cohort to the update that the server optimizer applies."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator

from fedprofit.config.component import located
from fedprofit.core.errors import UserError
from fedprofit.core.types import ClientId, Params
from fedprofit.server.check import check_tensors
from fedprofit.server.steps.base import AggregationStep, Encoding, Reducer, Sent, StepContext
from fedprofit.server.store import ClientStore

ORDER = ("client", "reduce", "server")


def checked_chain(steps: tuple[AggregationStep, ...]) -> tuple[AggregationStep, ...]:
    """Return the steps; ValueError unless one reduces, after those on clients, before those on the server.

    >>> from fedprofit.server.steps.clip import Clip
    >>> checked_chain((Clip(),))
    Traceback (most recent call last):
    ...
    ValueError: no step turns the clients' updates into one (clip); end the list with mean, for example
    """
    if any(step.is_recorded for step in steps):
        return steps  # a finished run is shown without its plug-in
    kinds = ", ".join(step.kind for step in steps)
    reducers = [step.kind for step in steps if isinstance(step, Reducer)]
    if not reducers:
        raise ValueError(
            f"no step turns the clients' updates into one ({kinds}); end the list with mean, for example"
        )
    if len(reducers) > 1:
        raise ValueError(
            f"several steps turn the clients' updates into one ({', '.join(reducers)}); keep one"
        )
    for before, after in pairwise(steps):
        if ORDER.index(before.stage) > ORDER.index(after.stage):
            where = "clients" if after.stage == "client" else "the clients' updates"
            raise ValueError(f"{after.kind} works on {where} and cannot follow {before.kind}; put it before")
    return steps


Steps = Annotated[tuple[AggregationStep, ...], AfterValidator(checked_chain)]


@dataclass(frozen=True)
class Aggregated:
    """Result of a chain for a cohort's updates."""

    delta: Params  # unstacked
    states: dict[str, Params]  # the steps' tensors on the server, by step
    bytes_up: int  # of all clients that returned something


@dataclass(frozen=True)
class Chain:
    """Aggregation steps, in order."""

    steps: tuple[AggregationStep, ...]

    def init(self, params: Params) -> dict[str, Params]:
        """Return the steps' tensors on the server before the first round, by step."""
        found = {name: step.init(params) for name, step in self._named()}
        return {name: tensors for name, tensors in found.items() if tensors}

    def weigh(self, examples: Sequence[float]) -> list[float]:
        """Return the clients' weights in the reducing step."""
        (reducer,) = (step for step in self.steps if isinstance(step, Reducer))
        return reducer.weigh(examples)

    def update(
        self,
        params: Params,
        clients: Sequence[ClientId],
        examples: Sequence[float],
        states: dict[str, Params],
        seed: int,
        round: int,
        store: ClientStore,
    ) -> Aggregated:
        """Aggregate a cohort's updates.

        Args:
            params: stacked `[clients, ...]`.
            clients: the cohort.
            examples: of each client; 0 for one that returned nothing. At least one is not 0.
            states: the steps' tensors on the server, by step.
            seed: of the run.
            round: from 1.
            store: the clients' states.

        Raises UserError if a step returns other shapes, or numbers that are not finite.
        """
        sent = _first(params, clients, examples)
        states = dict(states)
        reduced = False
        for name, step in self._named():
            context = StepContext(name, seed, round, store.within(name))
            sent, after = step.update(sent, states.get(name, {}), context)
            if after:
                states[name] = after
            reduced = reduced or isinstance(step, Reducer)
            _check(step, sent, params, reduced, round)
        up = sum(one.bytes for one in sent.encodings.values()) * len(sent.counted)
        return Aggregated(sent.params, states, up)

    def _named(self) -> list[tuple[str, AggregationStep]]:
        return [(f"aggregate.{position}.{step.kind}", step) for position, step in enumerate(self.steps)]


def _first(params: Params, clients: Sequence[ClientId], examples: Sequence[float]) -> Sent:
    """Zero the tensors of clients that returned nothing: they may be NaN."""
    import torch

    if not all(examples):
        counts = torch.tensor([count > 0 for count in examples])
        params = {
            key: torch.where(counts.to(t.device).reshape(-1, *[1] * (t.dim() - 1)), t, 0.0)
            for key, t in params.items()
        }
    encodings = {key: Encoding(tensor[0].numel(), tensor.element_size()) for key, tensor in params.items()}
    return Sent(tuple(clients), tuple(examples), params, encodings)


def _check(step: AggregationStep, sent: Sent, params: Params, reduced: bool, round: int) -> None:
    what = f"{located(step)}aggregation step {step.kind!r}: round {round}"
    if not isinstance(sent, Sent):
        raise UserError(f"{what}: returned {type(sent).__name__}, expected Sent.")
    like = {key: tensor[0] for key, tensor in params.items()} if reduced else params
    check_tensors(what, sent.params, like, None if reduced else sent.clients)
