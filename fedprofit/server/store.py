"""The client store: named tensors that each client keeps between rounds.

An algorithm sees a `ClientStore`. Rows are stored in a `Backing`: a dictionary here, files of a run's folder
in `runs/client_files.py`. The cost depends on the rows that are used, not on the size of the population.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from fedprofit.core.errors import UserError, cut
from fedprofit.core.types import ClientId, Params


class Backing(Protocol):
    """Rows of tensors by name and client."""

    def read(self, name: str, client: ClientId) -> Params | None:
        """Return a client's tensors of this name, unstacked; None if it has none."""
        ...

    def write(self, name: str, client: ClientId, row: Params) -> None:
        """Keep a client's tensors of this name, unstacked, in place of earlier ones."""
        ...


@dataclass
class InMemory:
    """A backing in memory."""

    rows: dict[tuple[str, ClientId], Params] = field(default_factory=dict)

    def read(self, name: str, client: ClientId) -> Params | None:
        """Return a client's tensors of this name."""
        return self.rows.get((name, client))

    def write(self, name: str, client: ClientId, row: Params) -> None:
        """Keep a client's tensors of this name."""
        self.rows[name, client] = row


@dataclass(frozen=True)
class ClientStore:
    """Named tensors of each client, kept between rounds.

    >>> import torch
    >>> store, start = ClientStore(), {"x": torch.zeros(1)}
    >>> store.put("control", ["ann"], {"x": torch.ones(1, 1)})
    >>> store.get("control", ["ann", "bob"], start)["x"].tolist()
    [[1.0], [0.0]]
    """

    backing: Backing = field(default_factory=InMemory)
    scope: str = ""  # put before every name

    def within(self, scope: str) -> "ClientStore":
        """Return a view whose names cannot clash with those of other scopes."""
        return replace(self, scope=f"{self.scope}{scope}.")

    def has(self, name: str, clients: Sequence[ClientId]) -> list[bool]:
        """Return which clients have tensors of this name."""
        return [self.backing.read(self.scope + name, client) is not None for client in clients]

    def get(self, name: str, clients: Sequence[ClientId], default: Params) -> Params:
        """Return the clients' tensors of a name, stacked `[clients, ...]`.

        Args:
            name: of the tensors.
            clients: in the order of the result.
            default: unstacked; the initial tensors of every client. They define shapes and device.

        Raises UserError for stored tensors of other names or shapes.
        """
        import torch

        rows = []
        for client in clients:
            row = self.backing.read(self.scope + name, client)
            if row is not None:
                _check_like(f"client {client!r}: state {self.scope + name!r}", row, default)
            rows.append(default if row is None else row)
        return {
            key: torch.stack([row[key].to(tensor) for row in rows])
            if rows
            else tensor.new_zeros(0, *tensor.shape)
            for key, tensor in default.items()
        }

    def put(self, name: str, clients: Sequence[ClientId], params: Params) -> None:
        """Keep the clients' tensors of a name, stacked `[clients, ...]`, for later rounds.

        Raises UserError unless there is one finite row for each client.
        """
        import torch

        what = f"state {self.scope + name!r}"
        for key, tensor in params.items():
            if tensor.dim() == 0 or len(tensor) != len(clients):
                found = list(tensor.shape)
                raise UserError(
                    f"{what}: tensor {key!r} has shape {found} for {len(clients)} clients. Give one row per "
                    "client, [clients, ...]."
                )
            bad = [c for c, row in zip(clients, tensor, strict=True) if not torch.isfinite(row).all()]
            if bad:
                raise UserError(
                    f"{what}: tensor {key!r} of client {bad[0]!r} is not finite. Store only what clients "
                    "returned that did not stop, or lower the learning rate."
                )
        for position, client in enumerate(clients):
            row = {key: tensor[position].detach().clone() for key, tensor in params.items()}
            self.backing.write(self.scope + name, client, row)


def _check_like(what: str, row: Params, default: Params) -> None:
    found = {key: list(tensor.shape) for key, tensor in row.items()}
    expected = {key: list(tensor.shape) for key, tensor in default.items()}
    if found != expected:
        raise UserError(
            f"{what}: holds {cut(str(found))}, expected {cut(str(expected))}. It was written by another "
            "algorithm or tuner. Start the run in another folder."
        )
