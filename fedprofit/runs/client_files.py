"""The client store of a run on disk: one file for the clients of each round.

`round-00000007.safetensors` has the rows that round 7 wrote. A client's later row replaces an
earlier one. The cost of a round depends on its cohort, not on the size of the population.

A process may be killed at any moment. A round's file is written before the server's checkpoint, which names
the round: files of later rounds are removed when the store is opened. Files whose rows are all replaced are
removed after the checkpoint is written. To bound the disk space, a round also rewrites the remaining rows of
the oldest file while less than half of the stored rows are current.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from fedprofit.core.errors import UserError, cut
from fedprofit.core.files import content_hash
from fedprofit.core.reading import read_tensors
from fedprofit.core.types import ClientId, Params
from fedprofit.runs.checkpoint import save_tensors

Key = tuple[str, ClientId]  # name of the tensors, client
FACT = "client_files"  # fact of a checkpoint: the files that belong to it


class ClientFiles:
    """A `Backing` of `ClientStore` in a folder; `save` ends a round."""

    def __init__(
        self, folder: Path, algorithm: str, round: int, facts: Mapping[str, Any], remedy: str
    ) -> None:
        """Open the store as it was after a round; remove the files of later rounds.

        Args:
            folder: folder of the files; created with the first file.
            algorithm: the algorithm of the states.
            round: the round of the server's checkpoint; 0 before the first.
            facts: facts of that checkpoint.
            remedy: remedy for damaged files, for messages.

        Raises UserError if files are damaged, missing, or of another algorithm.
        """
        self._folder, self._algorithm, self._what = folder, algorithm, f"client states of {algorithm!r}"
        self._round, self._remedy = round, remedy
        self._at: dict[Key, tuple[int, int]] = {}  # round and position of each current row
        self._current: Counter[int] = Counter()  # rows of each file
        self._stored: Counter[int] = Counter()  # including replaced ones
        self._shapes: dict[str, dict[str, list[int]]] = {}
        self._pending: dict[Key, Params] = {}
        for number in sorted(self._numbers()):
            if number > round:
                self._file(number).unlink()
            else:
                self._add(number, *self._read(number))
        self.tidy()
        if round and facts.get(FACT) != self.facts.get(FACT):
            raise UserError(
                f"{folder}: {self._what}: the files are not those of the checkpoint of round {round}; some "
                f"are missing or from another run. {remedy}"
            )

    @property
    def facts(self) -> dict[str, Any]:
        """The facts of the store for a checkpoint."""
        numbers = sorted(number for number, rows in self._current.items() if rows)
        return {FACT: content_hash(numbers)} if numbers else {}

    def read(self, name: str, client: ClientId) -> Params | None:
        """Return a client's tensors of this name, unstacked; None if it has none."""
        if (name, client) in self._pending:
            return self._pending[name, client]
        place = self._at.get((name, client))
        return None if place is None else self._row(name, *place)

    def write(self, name: str, client: ClientId, row: Params) -> None:
        """Keep a client's tensors until `save` writes them."""
        found = {key: list(tensor.shape) for key, tensor in row.items()}
        known = self._shapes.setdefault(name, found)
        if found != known:
            raise UserError(
                f"{self._what}: client {client!r}: state {name!r} has tensors {cut(str(found))}, and had "
                f"{cut(str(known))} before. Keep names and shapes the same in all rounds."
            )
        self._pending[name, client] = row

    def save(self, round: int) -> None:
        """Write the rows of a round; they become valid with the next checkpoint."""
        self._round = round
        if not self._pending:
            return
        for name, client in self._worth_moving():
            self._pending[name, client] = self._row(name, *self._at[name, client])
        clients: dict[str, list[ClientId]] = {}
        for name, client in self._pending:
            clients.setdefault(name, []).append(client)
        tensors = {
            f"{name}/{key}": torch.stack([self._pending[name, client][key].cpu() for client in owners])
            for name, owners in clients.items()
            for key in self._shapes[name]
        }
        facts = {"algorithm": self._algorithm, "clients": clients, "shapes": self._shapes}
        save_tensors(self._file(round), tensors, facts)
        self._add(round, clients)
        self._pending = {}

    def tidy(self) -> None:
        """Remove files whose rows are all replaced; call it after the checkpoint is written."""
        for number in [number for number in self._stored if not self._current[number]]:
            self._file(number).unlink(missing_ok=True)
            del self._stored[number], self._current[number]

    def _worth_moving(self) -> list[Key]:
        """Return the current rows of the oldest file if less than half of all stored rows are current."""
        fresh = sum(key not in self._at for key in self._pending)
        stored = sum(self._stored.values()) + len(self._pending)
        if not self._at or stored <= 2 * (len(self._at) + fresh):
            return []
        oldest = min(self._stored)
        clients, _ = self._read(oldest)
        keys = [(name, client) for name, owners in clients.items() for client in owners]
        return [key for key in keys if self._at[key][0] == oldest and key not in self._pending]

    def _add(
        self, number: int, clients: Mapping[str, list[ClientId]], shapes: Mapping[str, Any] | None = None
    ) -> None:
        self._shapes |= shapes or {}
        for name, owners in clients.items():
            for position, client in enumerate(owners):
                before = self._at.get((name, client))
                if before:
                    self._current[before[0]] -= 1
                self._at[name, client] = number, position
            self._current[number] += len(owners)
            self._stored[number] += len(owners)

    def _read(self, number: int) -> tuple[dict[str, list[ClientId]], dict[str, Any]]:
        """Check a file and return its clients and the shapes of their rows."""
        path = self._file(number)
        _, facts = read_tensors(path, self._remedy)
        if facts.get("algorithm") != self._algorithm:
            raise UserError(
                f"{path}: has the client states of {cut(repr(facts.get('algorithm')))}, not of "
                f"{self._algorithm!r}. {self._remedy}"
            )
        return facts["clients"], facts["shapes"]

    def _row(self, name: str, number: int, position: int) -> Params:
        with safe_open(str(self._file(number)), framework="pt") as file:
            return {
                key: file.get_slice(f"{name}/{key}")[position : position + 1][0] for key in self._shapes[name]
            }

    def _file(self, number: int) -> Path:
        return self._folder / f"round-{number:08d}.safetensors"

    def _numbers(self) -> Iterator[int]:
        for path in self._folder.glob(f"round-{'[0-9]' * 8}.safetensors"):
            yield int(path.stem.removeprefix("round-"))
